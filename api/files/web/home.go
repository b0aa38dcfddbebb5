package web

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// backup, disk, volume and so on are /api/v1/backups' as far as a page shows them.
type backup struct {
	Name      string     `json:"name"`
	VM        string     `json:"vm"`
	Timestamp *time.Time `json:"timestamp"`
	Path      string     `json:"path"`
	Systems   []struct {
		Path string `json:"path"`
		Name string `json:"name"`
		ID   string `json:"id"`
	} `json:"operatingSystems"`
	Mounts []struct {
		MountPoint string `json:"mountPoint"`
		Source     string `json:"source"`
		Type       string `json:"type"`
		State      string `json:"state"`
		Note       string `json:"note"`
		Path       string `json:"path"`
	} `json:"mounts"`
	Groups []struct {
		Name     string   `json:"name"`
		Disks    []string `json:"disks"`
		Missing  []string `json:"missing"`
		Warnings []string `json:"warnings"`
	} `json:"volumeGroups"`
	Fallback *struct {
		Engine   string `json:"engine"`
		State    string `json:"state"`
		Progress int    `json:"progress"`
		Error    string `json:"error"`
		Advice   string `json:"advice"`
	} `json:"fallback"`
	Disks    []disk   `json:"disks"`
	Warnings []string `json:"warnings"`
}

type disk struct {
	Name        string   `json:"name"`
	Source      string   `json:"source"`
	Format      string   `json:"format"`
	VirtualSize int64    `json:"virtualSize"`
	State       string   `json:"state"`
	Path        string   `json:"path"`
	RawPath     string   `json:"rawPath"`
	Error       string   `json:"error"`
	Advice      string   `json:"advice"`
	Volumes     []volume `json:"volumes"`
	Warnings    []string `json:"warnings"`
}

type volume struct {
	Name       string   `json:"name"`
	Label      string   `json:"label"`
	TypeName   string   `json:"typeName"`
	Size       int64    `json:"size"`
	Content    string   `json:"content"`
	Path       string   `json:"path"`
	MountedAt  []string `json:"mountedAt"`
	FileSystem *struct {
		Type     string   `json:"type"`
		Label    string   `json:"label"`
		Total    uint64   `json:"total"`
		Used     uint64   `json:"used"`
		Warnings []string `json:"warnings"`
	} `json:"fileSystem"`
	Error  string `json:"error"`
	Advice string `json:"advice"`
}

// Href of a backup, disk and volume is the page of its folder.
func (b backup) Href() string { return browseURL(b.Path) }

// Href is the page of the disk's folder.
func (d disk) Href() string { return browseURL(d.Path) }

// Raw downloads the whole disk.
func (d disk) Raw() string {
	if d.RawPath == "" {
		return ""
	}
	return fileURL(d.RawPath) + "?download=1"
}

// Href is the page of the volume's files; empty where it has none.
func (v volume) Href() string {
	if v.Path == "" || v.FileSystem == nil {
		return ""
	}
	return browseURL(v.Path)
}

// Size is what all disks of the backup hold together, in bytes.
func (b backup) Size() (total int64) {
	for _, d := range b.Disks {
		total += d.VirtualSize
	}
	return total
}

// OS names the installed systems.
func (b backup) OS() string {
	var names []string
	for _, o := range b.Systems {
		n := o.Name
		if n == "" {
			n = o.ID
		}
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// When is the backup's time for people, in UTC.
func (b backup) When() string {
	if b.Timestamp == nil {
		return ""
	}
	return b.Timestamp.UTC().Format("2006-01-02 15:04")
}

// backups asks for the report, the newest backup first.
func (s *Site) backups(v *visit) ([]backup, error) {
	var report struct {
		Backups []backup `json:"backups"`
	}
	if err := s.get(v, "/api/v1/backups", nil, &report); err != nil {
		return nil, err
	}
	slices.SortStableFunc(report.Backups, func(a, b backup) int { return stamp(b).Compare(stamp(a)) })
	return report.Backups, nil
}

func stamp(b backup) time.Time {
	if b.Timestamp == nil {
		return time.Time{}
	}
	return *b.Timestamp
}

func (s *Site) home(v *visit) error {
	list, err := s.backups(v)
	if err != nil {
		return err
	}
	return s.show(v, http.StatusOK, "home", view{Title: s.texts.get("home.title"), Path: "/", Data: list})
}

// other is the same path in another backup.
type other struct{ Backup, When, Path, Compare string }

// others are where path may be found in the other backups, the newest first.
func (s *Site) others(v *visit, path string) ([]other, error) {
	own, rest, ok := split(path)
	if !ok || rest == "" {
		return nil, nil
	}
	list, err := s.backups(v)
	if err != nil {
		return nil, err
	}
	var out []other
	for _, b := range list {
		if b.Name != own {
			p := b.Path + "/" + rest
			out = append(out, other{b.Name, b.When(), encodePath(p), compareURL(p, path)})
		}
	}
	return out, nil
}
