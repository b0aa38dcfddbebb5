package pull

import (
	"strings"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/e2e/guest"
	"vmfr/test/fixture"
)

// Clients pulls a machine of package guest from below root, the address of its root in the server's
// tree, with every client.
func Clients(t *testing.T, s Server, root string, files fsystest.Manifest) {
	t.Helper()
	files = Without(files, guest.Big)
	t.Run("rsync", func(t *testing.T) { Everything(t, files, s.Rsync(t, root, "--exclude=/"+guest.Big)) })
	for _, folder := range []string{"etc", "srv/share"} {
		of := Below(files, folder)
		t.Run("sftp "+folder, func(t *testing.T) { Content(t, of, s.Get(t, root+"/"+folder), Seconds) })
		t.Run("scp "+folder, func(t *testing.T) { Content(t, of, s.SCP(t, root+"/"+folder, false), Seconds) })
	}
	t.Run("sftp everything", func(t *testing.T) {
		for _, folder := range []string{"data/load", "srv/load", "var", "home"} {
			Content(t, Below(files, folder), s.Get(t, root+"/"+folder), Seconds)
		}
	})
	t.Run("scp -O", func(t *testing.T) { Content(t, Below(files, "srv/share"), s.SCP(t, root+"/srv/share", true), Seconds) })
	t.Run("no shell", func(t *testing.T) {
		if out, err := s.SSHCommand(t.Context(), t, "cat /etc/passwd"); err == nil || strings.Contains(out, "root:") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("curl", func(t *testing.T) {
		for _, name := range []string{guest.Small, "home/ann/ümlaut and blank", "home/ann/latin1-\xe4\xf6"} {
			if got := sum(s.File(t, root+"/"+name)); got != files[name].SHA256 {
				t.Errorf("the content of %q is another", name)
			}
		}
		// The guest's own absolute link leads to the guest's own file.
		if got := sum(s.File(t, root+"/home/ann/report")); got != files[guest.Report].SHA256 {
			t.Error("the link to the report leads elsewhere")
		}
	})
	t.Run("zip", func(t *testing.T) {
		dir := s.Zip(t, root+"/etc", root+"/srv/share")
		for _, folder := range []string{"etc", "srv/share"} {
			Content(t, Below(files, folder), dir+"/"+folder, NoTimes)
		}
	})
	t.Run("tar", func(t *testing.T) { Everything(t, Below(files, "srv"), s.Tar(t, root+"/srv")+"/srv") })
	t.Run("browser", func(t *testing.T) { browse(t, s, root, files) })
}

// browse goes from the login to the report as a person would, and saves it.
func browse(t *testing.T, s Server, root string, files fsystest.Manifest) {
	b := s.Browse(t)
	b.Open(t, "/browse"+root)
	if got := b.Login(t, s.Password+"x"); got != 401 {
		t.Errorf("a wrong password: %d", got)
	}
	if got := b.Login(t, s.Password); got != 200 {
		t.Fatalf("login: %d: %s", got, b.Text(t))
	}
	for name := range strings.SplitSeq(guest.Report, "/") {
		if got := b.Enter(t, name); got != 200 {
			t.Fatalf("%s: %d: %s", name, got, b.Text(t))
		}
	}
	if text := b.Text(t); !strings.Contains(text, "the quarterly report") {
		t.Errorf("the report is not shown: %.500s", text)
	}
	if got := fixture.Sum(t, b.Download(t, ".bar a.button")); got != files[guest.Report].SHA256 {
		t.Error("the report that the browser saved is another")
	}
}
