package plan

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// nameInput is what an API server lets through.
type nameInput struct {
	uid                     types.UID
	prefix, namespace, name string
}

const labelChars = "abcdefghijklmnopqrstuvwxyz0123456789"

func randomName(r *rand.Rand, length int, inner string) string {
	b := make([]byte, 1+r.IntN(length))
	for i := range b {
		chars := labelChars
		if i > 0 && i < len(b)-1 && b[i-1] != '.' {
			chars += inner
		}
		b[i] = chars[r.IntN(len(chars))]
	}
	// A part must not end in a dash either.
	return strings.ReplaceAll(string(b), "-.", "x.")
}

func randomInput(r *rand.Rand) nameInput {
	in := nameInput{namespace: randomName(r, 63, "-----"), name: randomName(r, 253, "---....")}
	in.uid = types.UID(fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Uint64N(1<<48)))
	if r.IntN(2) == 0 {
		in.prefix = randomName(r, 40, "---")
	}
	return in
}

func (i nameInput) names() Names {
	r := &v1alpha1.VirtualMachineFileRestore{}
	r.UID, r.Spec.NamespacePrefix = i.uid, i.prefix
	return NewNames(r, session.VM{Name: i.name, Namespace: i.namespace})
}

// labels are all names that must be RFC 1123 labels; a Service's must begin with a letter, too.
func (n Names) labels() (labels, services []string) {
	services = []string{n.Object()}
	labels = []string{n.Session, n.BackupNamespace(1), n.BackupNamespace(session.MaxBackups), n.BackupNamespace(maxNumber),
		n.Restore(maxNumber), n.SessionConfig(), n.Report(), n.ServiceCA(), n.Identity(), n.SSH(), n.Browser(), n.TLS(), n.DiskKeys()}
	return labels, services
}

func TestNamesAreValid(t *testing.T) {
	check := func(i nameInput) {
		t.Helper()
		n := i.names()
		labels, services := n.labels()
		for _, l := range append(labels, services...) {
			if msgs := validation.IsDNS1123Label(l); len(msgs) > 0 {
				t.Fatalf("%+v: %q: %v", i, l, msgs)
			}
		}
		for _, s := range services {
			if msgs := validation.IsDNS1035Label(s); len(msgs) > 0 {
				t.Fatalf("%+v: Service %q: %v", i, s, msgs)
			}
		}
		if !n.Temporary || !strings.HasSuffix(n.Session, "-"+n.Suffix) || !strings.HasPrefix(n.BackupNamespace(1), n.Session+"-") {
			t.Fatalf("%+v: %+v lost its suffix", i, n)
		}
		if i.names() != n {
			t.Fatalf("%+v: other names the second time", i)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		check(randomInput(r))
	}
	long := strings.Repeat("a", 63)
	for _, i := range []nameInput{
		{"u", "", "n", "v"},
		{"u", strings.Repeat("p", 40), long, strings.TrimSuffix(strings.Repeat(long+".", 4), ".")[:253]},
		{"u", "", strings.Repeat("a", 42), "-.-"}, // would end in dashes where it is cut
		{"u", "9", "0", "1.2.3"},
	} {
		check(i)
	}
}

// TestNamesAreDistinct makes names for restores of one virtual machine, where the UIDs alone
// differ, and for restores of machines whose names are cut to the same.
func TestNamesAreDistinct(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	same := randomInput(r)
	seen := map[string]types.UID{}
	uids := map[types.UID]bool{}
	for range 3000 {
		i := randomInput(r)
		i.prefix, i.namespace, i.name = same.prefix, same.namespace, same.name
		if uids[i.uid] {
			continue
		}
		uids[i.uid] = true
		n := i.names()
		for _, name := range []string{n.Session, n.BackupNamespace(1), n.BackupNamespace(11), n.Object(), n.Restore(1)} {
			if other, ok := seen[name]; ok {
				t.Fatalf("%s is of %s and %s", name, other, i.uid)
			}
			seen[name] = i.uid
		}
	}
}

// TestSuffix pins the way from a UID to its names: a controller of the next release must find what
// this one made.
func TestSuffix(t *testing.T) {
	const uid = "5d9b2f0e-3f5c-4c39-9a55-8d2d7e3f1a10"
	if got, want := Suffix(uid), "isf5xaxms4"; got != want {
		t.Errorf("Suffix(%s) = %s, want %s", uid, got, want)
	}
	letterFirst := func(b []byte) bool {
		s := Suffix(types.UID(b))
		return len(s) == suffixLen && 'a' <= s[0] && s[0] <= 'z' && len(validation.IsDNS1035Label(s)) == 0
	}
	if err := quick.Check(letterFirst, nil); err != nil {
		t.Error(err)
	}
}

func TestRestoreNamespace(t *testing.T) {
	r := &v1alpha1.VirtualMachineFileRestore{}
	r.UID, r.Spec.RestoreNamespace = "u", "team-a"
	n := NewNames(r, session.VM{Name: "web", Namespace: "prod"})
	if n.Session != "team-a" || n.Temporary {
		t.Errorf("%+v does not serve in team-a", n)
	}
	if got, want := n.BackupNamespace(2), "vmfr-prod-web-"+n.Suffix+"-2"; got != want {
		t.Errorf("the second backup is in %s, want %s", got, want)
	}
}

func TestNumber(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }
	in := []Backup{{Name: "c", Timestamp: day(2)}, {Name: "b", Timestamp: day(1)}, {Name: "a", Timestamp: day(2)}}
	var got []string
	for _, b := range Number(in) {
		got = append(got, fmt.Sprint(b.Name, b.Number))
	}
	if want := "b1 a2 c3"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if in[0].Name != "c" || in[0].Number != 0 {
		t.Error("the argument was changed")
	}
}
