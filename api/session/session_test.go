package session

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func example() *Session {
	return &Session{
		Version: Version, ID: ID(make([]byte, JoinKeyBytes)), UID: "0f3c9a5e-2b1d-4c6e-8a7f-000000000001", Name: "recover", Namespace: "velero",
		VM: VM{Name: "web", Namespace: "shop"},
		Backups: []Backup{{Name: "nightly-0412", Timestamp: time.Date(2026, 4, 12, 1, 0, 0, 0, time.UTC), Disks: []Disk{
			{Name: "rootdisk", Mode: Block, Bus: "virtio", PVCUID: "u1"}, {Name: "data.0", Mode: Filesystem},
		}}},
		SSH: &SSH{IdleTimeout: Duration(30 * time.Minute)}, Browser: &Browser{},
	}
}

func exampleReport() *Report {
	return &Report{
		Version: Version, ID: example().ID, Node: "worker-1", Updated: time.Date(2026, 4, 12, 2, 0, 0, 0, time.UTC), State: Serving,
		Backups: []BackupReport{{Name: "nightly-0412", State: Readable, Disks: []DiskReport{
			{Name: "rootdisk", State: Readable, Format: "raw", Size: 1 << 33, Volumes: []VolumeReport{{Name: "p1", Type: "ext4", Engine: "ext4", Path: "/backups/nightly-0412/rootdisk"}}},
			{Name: "data.0", State: Failed, Message: "no file system was found: größe 0"},
		}}},
	}
}

func TestDecode(t *testing.T) {
	want := example()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v\nwant %+v", got, err, want)
	}
	if !strings.Contains(string(b), `"idleTimeout":"30m0s"`) {
		t.Errorf("durations are not written in words: %s", b)
	}
	for what, change := range map[string]func(*Session){
		"version 2":        func(s *Session) { s.Version = 2 },
		"no SHA-256":       func(s *Session) { s.ID = strings.ToUpper(s.ID) },
		"neither ssh":      func(s *Session) { s.SSH, s.Browser = nil, nil },
		"uid":              func(s *Session) { s.UID = "" },
		"namespace":        func(s *Session) { s.Namespace = "a/b" },
		"vm.name":          func(s *Session) { s.VM.Name = ".." },
		"0 backups":        func(s *Session) { s.Backups = nil },
		"there twice":      func(s *Session) { s.Backups = append(s.Backups, s.Backups[0]) },
		"0 disks":          func(s *Session) { s.Backups[0].Disks = nil },
		"no timestamp":     func(s *Session) { s.Backups[0].Timestamp = time.Time{} },
		"is no Kubernetes": func(s *Session) { s.Backups[0].Disks[0].Name = "a\nb" },
		"neither Block":    func(s *Session) { s.Backups[0].Disks[0].Mode = "" },
		"of 254 bytes":     func(s *Session) { s.Backups[0].Disks[0].Name = strings.Repeat("a", 254) },
		"too long":         func(s *Session) { s.Backups[0].Disks[0].Bus = strings.Repeat("a", 33) },
		"65 disks": func(s *Session) {
			s.Backups[0].Disks = make([]Disk, MaxDisks+1)
			for i := range s.Backups[0].Disks {
				s.Backups[0].Disks[i] = Disk{Name: fmt.Sprint(i), Mode: Block}
			}
		},
	} {
		s := example()
		change(s)
		b, _ := json.Marshal(s)
		if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, doc := range map[string]string{
		"unknown field": strings.Replace(string(b), `"vm"`, `"vn"`, 1),
		"more than one": string(b) + "{}",
		"EOF":           string(b[:len(b)-1]),
		"negative":      strings.Replace(string(b), "30m0s", "-1s", 1),
		"exceed":        string(b) + strings.Repeat(" ", MaxSessionBytes),
	} {
		if _, err := Decode([]byte(doc)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDecodeReport(t *testing.T) {
	want := exampleReport()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeReport(b, want.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v\nwant %+v", got, err, want)
	}
	if _, err := DecodeReport(b, ID([]byte("another"))); err == nil || !strings.Contains(err.Error(), "another session") {
		t.Errorf("another session's report: %v", err)
	}
	for what, change := range map[string]func(*Report){
		"version":            func(r *Report) { r.Version = 0 },
		"state":              func(r *Report) { r.State = Readable },
		"backups[0]: state":  func(r *Report) { r.Backups[0].State = Serving },
		"backups[1]":         func(r *Report) { r.Backups = append(r.Backups, r.Backups[0]) },
		"disks[1]":           func(r *Report) { r.Backups[0].Disks[1].Name = "rootdisk" },
		"control characters": func(r *Report) { r.Backups[0].Disks[1].Message = "\x1b[2J" },
		"holds control":      func(r *Report) { r.Backups[0].Disks[0].Volumes[0].Path = "a\u202eb" },
		"not UTF-8":          func(r *Report) { r.Message = "\xff" },
		"limit of 1024":      func(r *Report) { r.Message = strings.Repeat("a", MaxMessage+1) },
		"out of range":       func(r *Report) { r.Restarts = -1 },
		"129 volumes":        func(r *Report) { r.Backups[0].Disks[0].Volumes = make([]VolumeReport, MaxVolumes+1) },
	} {
		r := exampleReport()
		change(r)
		// json.Marshal would mend what is not UTF-8.
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"as it is: größe":        "as it is: größe",
		"two\nlines\x1b[2J":      "two; lines [2J",
		"\xff\u202eb":            "? b",
		strings.Repeat("ä", 600): strings.Repeat("ä", 510) + "...",
	} {
		got := Text(in)
		if got != want {
			t.Errorf("%q became %q", in, got)
		}
		if err := checkMessage(got); err != nil {
			t.Error(err)
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	r := exampleReport()
	b, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeReport(b, r.ID)
		if err != nil {
			return
		}
		first, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("a valid report cannot be written: %v", err)
		}
		if len(first) > MaxReportBytes {
			return // escapes make it longer than it was
		}
		same, err := DecodeReport(first, r.ID)
		if err != nil {
			t.Fatalf("%s is refused: %v", first, err)
		}
		if second, _ := json.Marshal(same); string(second) != string(first) {
			t.Fatalf("%s became %s", first, second)
		}
	})
}

// TestReportName fixes the name: the controller and a node of another release must agree.
func TestReportName(t *testing.T) {
	if got := ReportName("0f3c9a5e-2b1d-4c6e-8a7f-000000000001"); got != "vmfr-c3wjz6tkmt-report" {
		t.Error(got)
	}
}
