package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

// TestPairs: two that are 4 % apart, on a machine that is busy with something else most of the time.
func TestPairs(t *testing.T) {
	r := &report{}
	r.addPairs("audit", "raw", "cpu ms", [2][]float64{{999, 104, 208, 1040}, {100, 200, 1500, 400}}, [2]string{ours.name, withoutLog})
	if got := r.Rows[0].Ratio[withoutLog]; got < 0.96 || got > 0.962 {
		t.Errorf("ratio %v, want 1/1.04", got)
	}
}

// TestRatios: more MiB/s and fewer seconds both give a ratio above 1 when we are better,
// whichever contender was measured first.
func TestRatios(t *testing.T) {
	r := &report{}
	r.add("read", "raw", "kernel", "MiB/s", []float64{100})
	r.add("read", "raw", "vmfr", "MiB/s", []float64{50})
	r.add("find", "raw", "vmfr", "s", []float64{2})
	r.add("find", "raw", "guestmount", "s", []float64{10})
	r.add("find", "raw", "ntfs-3g", "s", []float64{3})
	if got := r.Rows[0].Ratio["kernel"]; got != 0.5 {
		t.Errorf("throughput ratio %v, want 0.5", got)
	}
	if got := r.Rows[1].Ratio["guestmount"]; got != 5 {
		t.Errorf("time ratio %v, want 5", got)
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil || !strings.Contains(string(md), "| find | raw | s | 2.00 |  | 10.0 (**5.00**) | ntfs-3g 3.00 (**1.50**) |") {
		t.Errorf("benchmarks.md lacks the row of find (%v):\n%s", err, md)
	}
	page := filepath.Join(dir, "benchmarks.md")
	if err := errors.Join(os.WriteFile(page, append(md, "\n## The node\n\nby hand\n"...), 0o644), r.write(dir), r.write(dir)); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(page); err != nil || string(again) != string(md)+"\n## The node\n\nby hand\n" {
		t.Errorf("what is written by hand is not kept: %v\n%s", err, again)
	}
	var back report
	j, err := os.ReadFile(filepath.Join(dir, "benchmarks.json"))
	if err != nil || json.Unmarshal(j, &back) != nil || len(back.Rows) != 2 {
		t.Errorf("benchmarks.json: %v: %s", err, j)
	}
	next := &report{}
	next.add("tar", "raw", "vmfr", "s", []float64{1})
	next.add("find", "raw", "vmfr", "s", []float64{1})
	if err := next.keep(dir); err != nil || len(next.Rows) != 3 || next.Rows[0].Median["vmfr"] != 50 || next.Rows[1].Median["vmfr"] != 1 || len(next.Rows[1].Median) != 1 {
		t.Errorf("kept rows: %v, %+v", err, next.Rows)
	}
	if err := (&report{CPUs: 64}).keep(dir); err == nil {
		t.Error("rows of another machine are kept")
	}
	svg, err := os.Open(filepath.Join(dir, "benchmarks.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	bars := 0
	for d := xml.NewDecoder(svg); ; {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("benchmarks.svg: %v", err)
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 4 { // the background and three ratios
		t.Errorf("%d rectangles in the chart, want 4", bars)
	}
}
