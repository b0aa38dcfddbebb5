package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// report is what benchmarks.json holds.
type report struct {
	Date    string `json:"date"`
	CPUs    int    `json:"cpus"`
	Runs    int    `json:"runs"`
	FileMiB int    `json:"fileMiB"`
	Files   int    `json:"files"`
	Rows    []*row `json:"rows"`
}

// row is one measurement of all contenders. A ratio above 1 means that we are better.
type row struct {
	Name   string               `json:"name"`
	Format string               `json:"format"`
	Unit   string               `json:"unit"`
	Values map[string][]float64 `json:"values"` // by contender, every run
	Median map[string]float64   `json:"median"`
	Ratio  map[string]float64   `json:"ratio"` // us against the contender
}

func (r *report) add(name, format, who, unit string, values []float64) {
	i := slices.IndexFunc(r.Rows, func(x *row) bool { return x.Name == name && x.Format == format })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &row{Name: name, Format: format, Unit: unit,
			Values: map[string][]float64{}, Median: map[string]float64{}, Ratio: map[string]float64{}})
	}
	w := r.Rows[i]
	w.Values[who] = values
	w.Median[who] = median(values)
	for other, m := range w.Median {
		us := w.Median[ours.name]
		if other == ours.name || us == 0 || m == 0 {
			continue
		}
		if w.Unit == "MiB/s" {
			w.Ratio[other] = us / m
		} else { // less is better
			w.Ratio[other] = m / us
		}
	}
}

// addPairs adds a row of processor times of two contenders that were measured in turns. Its ratio is
// that of their first deciles: what else the machine does only ever adds to such a time, so the low ones
// are the true ones, and the least alone would be luck.
func (r *report) addPairs(name, format, unit string, values [2][]float64, who [2]string) {
	for k := range who {
		r.add(name, format, who[k], unit, values[k])
	}
	w := r.Rows[slices.IndexFunc(r.Rows, func(x *row) bool { return x.Name == name && x.Format == format })]
	w.Ratio[who[1]] = decile(values[1]) / decile(values[0])
}

// decile is the first one of v, which is not empty.
func decile(v []float64) float64 { return slices.Sorted(slices.Values(v))[(len(v)-1)/10] }

// keep adds the rows of an earlier run that this one does not have, where it measured the same
// things on as many processors. A row's contenders are always of one run.
func (r *report) keep(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "benchmarks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var old report
	if err == nil {
		err = json.Unmarshal(b, &old)
	}
	if err != nil {
		return fmt.Errorf("the rows to keep: %w", err)
	}
	if old.CPUs != r.CPUs || old.FileMiB != r.FileMiB || old.Files != r.Files {
		return fmt.Errorf("the rows to keep were measured with %d processors, %d MiB and %d files", old.CPUs, old.FileMiB, old.Files)
	}
	now := r.Rows
	r.Rows = nil
	for _, o := range old.Rows {
		if i := slices.IndexFunc(now, func(n *row) bool { return n.Name == o.Name && n.Format == o.Format }); i >= 0 {
			o = now[i]
			now = slices.Delete(now, i, i+1)
		}
		r.Rows = append(r.Rows, o)
	}
	r.Rows = append(r.Rows, now...)
	return nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// columns are the contenders that have one of their own; all others share the last one.
var columns = []string{kernel.name, guest.name}

// markdown is the table. A contender's cell is its median and, in brackets, our ratio to it.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| measurement | image | unit | vmfr | kernel loop mount | guestmount | other programs |\n")
	b.WriteString("| --- | --- | --- | ---: | ---: | ---: | --- |\n")
	for _, w := range r.Rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |", w.Name, w.Format, w.Unit, number(w.Median[ours.name]))
		for _, who := range columns {
			fmt.Fprintf(&b, " %s |", w.cell(who))
		}
		var others []string
		for _, who := range slices.Sorted(maps.Keys(w.Median)) {
			if who != ours.name && !slices.Contains(columns, who) {
				others = append(others, who+" "+w.cell(who))
			}
		}
		fmt.Fprintf(&b, " %s |\n", strings.Join(others, ", "))
	}
	return b.String()
}

func (w *row) cell(who string) string {
	m, ok := w.Median[who]
	if !ok {
		return ""
	}
	if ratio := w.Ratio[who]; ratio != 0 {
		return fmt.Sprintf("%s (**%s**)", number(m), number(ratio))
	}
	return number(m)
}

//go:embed chart.svg.tmpl
var chartTemplate string

//go:embed page.md.tmpl
var pageTemplate string

// bar is one line of the chart: a ratio on a logarithmic axis.
type bar struct {
	Label string
	Text  string
	Y     int
	X, W  float64
	Color string
}

const (
	chartZero   = 470.0 // x of ratio 1
	chartDecade = 115.0 // width of a factor of ten
	chartRow    = 18    // height of a bar with its gap
)

func (r *report) bars() []bar {
	colors := map[string]string{kernel.name: "#6b7280", guest.name: "#2563eb"}
	others := map[string]bool{}
	for _, w := range r.Rows {
		for who := range w.Ratio {
			others[who] = !slices.Contains(columns, who)
		}
	}
	maps.DeleteFunc(others, func(_ string, other bool) bool { return !other })
	var out []bar
	for _, who := range append([]string{guest.name, kernel.name}, slices.Sorted(maps.Keys(others))...) {
		color, ok := colors[who]
		if !ok {
			color = "#059669"
		}
		for _, w := range r.Rows {
			ratio := w.Ratio[who]
			if ratio == 0 {
				continue
			}
			x := math.Log10(ratio) * chartDecade
			out = append(out, bar{
				Label: w.Name + ", " + w.Format + " / " + who, Text: number(ratio) + "×", Y: 40 + len(out)*chartRow,
				X: chartZero + min(x, 0), W: max(math.Abs(x), 1), Color: color,
			})
		}
	}
	return out
}

func (r *report) write(dir string) error {
	j, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	bars := r.bars()
	others, err := otherSections(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		return err
	}
	render := func(name, text string, data any) error {
		t, err := template.New(name).Parse(text)
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return errors.Join(t.Execute(f, data), f.Close())
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "benchmarks.json"), append(j, '\n'), 0o644),
		render("benchmarks.svg", chartTemplate, map[string]any{"Bars": bars, "Height": 60 + len(bars)*chartRow, "Zero": chartZero}),
		render("benchmarks.md", pageTemplate, map[string]any{"Report": r, "Table": r.markdown(), "Others": others}),
	)
}

// otherSections are those of the page that was there: measured by tests, each with its command,
// and written by hand. They begin with the first heading of the second level.
func otherSections(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if i := bytes.Index(b, []byte("\n## ")); i >= 0 {
		return string(b[i:]), nil
	}
	return "", nil
}
