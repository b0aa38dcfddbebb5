package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bucket is the name of each location's bucket, and of the gateway's directory for it.
const bucket = "backups"

const (
	accessKey = "test"
	secretKey = "testsecret"
)

// Location is a BackupStorageLocation with an S3 gateway of its own, whose bucket is a directory.
type Location struct {
	Name   string
	Bucket string // the directory
	URL    string // of the gateway
	CA     []byte // PEM of the gateway's certificate; nil: plain HTTP

	velero  *Velero
	command []string
	process *process // the gateway
}

// AddLocation adds a backup storage location and returns when it is Available.
func (v *Velero) AddLocation(t testing.TB, name string) *Location {
	t.Helper()
	l := v.newLocation(t, name, false)
	l.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
	return l
}

// AddTLSLocation is AddLocation with HTTPS: the location's caCert holds the certificate, which no
// system knows.
func (v *Velero) AddTLSLocation(t testing.TB, name string) *Location {
	t.Helper()
	l := v.newLocation(t, name, true)
	l.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
	return l
}

func (v *Velero) newLocation(t testing.TB, name string, tls bool) *Location {
	t.Helper()
	data, host := t.TempDir(), loopback()
	address := net.JoinHostPort(host, "7070")
	l := &Location{Name: name, Bucket: filepath.Join(data, bucket), URL: "http://" + address, velero: v}
	if err := os.Mkdir(l.Bucket, 0o755); err != nil {
		t.Fatal(err)
	}
	l.command = []string{filepath.Join(S3Gateway.Need(t), "versitygw"), "--port", address}
	if tls {
		certificate, key, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for file, b := range map[string][]byte{"crt": certificate, "key": key} {
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l.command = append(l.command, "--cert", filepath.Join(dir, "crt"), "--key", filepath.Join(dir, "key"))
		l.URL, l.CA = "https://"+address, certificate
	}
	l.command = append(l.command, "posix", data)
	l.Up(t)

	create(t, v.Client, &velerov1.BackupStorageLocation{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: VeleroNamespace},
		Spec: velerov1.BackupStorageLocationSpec{
			Provider: "aws", Default: name == "default",
			StorageType: velerov1.StorageType{ObjectStorage: &velerov1.ObjectStorageLocation{Bucket: bucket, CACert: l.CA}},
			// Checksums of the request's body are what not every gateway knows.
			Config: map[string]string{"region": "us-east-1", "s3ForcePathStyle": "true", "s3Url": l.URL, "checksumAlgorithm": ""},
		},
	})
	return l
}

// AwaitPhase waits until Velero says that the location is in the phase.
func (l *Location) AwaitPhase(t testing.TB, phase velerov1.BackupStorageLocationPhase) {
	t.Helper()
	l.velero.process.await(t, endLimit, func() error {
		var have velerov1.BackupStorageLocation
		if err := l.velero.Client.Get(context.Background(), client.ObjectKey{Namespace: VeleroNamespace, Name: l.Name}, &have); err != nil {
			return err
		}
		if have.Status.Phase != phase {
			return fmt.Errorf("location %s is %q: %s", l.Name, have.Status.Phase, have.Status.Message)
		}
		return nil
	})
}

// Down ends the gateway: connections are refused until Up.
func (l *Location) Down() { l.process.stop() }

// Up starts the gateway again at the same address and returns when it answers.
func (l *Location) Up(t testing.TB) {
	t.Helper()
	gateway := exec.Command(l.command[0], l.command[1:]...)
	gateway.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	l.process = start(t, gateway)
	address := gateway.Args[2]
	l.process.await(t, startLimit, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// Dir is the directory of a backup's files.
func (l *Location) Dir(backup string) string { return filepath.Join(l.Bucket, "backups", backup) }

// File is the path of a file of a backup. Its suffix is what follows the backup's name, such as
// ".tar.gz" and "-resource-list.json.gz".
func (l *Location) File(backup, suffix string) string {
	return filepath.Join(l.Dir(backup), backup+suffix)
}

// copy copies the files of a backup for another one.
func (l *Location) copy(t testing.TB, from string, to *velerov1.Backup) {
	t.Helper()
	const metadata = "velero-backup.json"
	entries, err := os.ReadDir(l.Dir(from))
	if err == nil {
		err = os.Mkdir(l.Dir(to.Name), 0o755)
	}
	for _, e := range entries {
		var b []byte
		name := e.Name()
		if name == metadata {
			b, err = json.Marshal(to)
		} else if b, err = os.ReadFile(filepath.Join(l.Dir(from), name)); err == nil {
			name = to.Name + strings.TrimPrefix(name, from)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(l.Dir(to.Name), name), b, 0o644)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Remove removes a file of a backup.
func (l *Location) Remove(t testing.TB, backup, suffix string) {
	t.Helper()
	if err := os.Remove(l.File(backup, suffix)); err != nil {
		t.Fatal(err)
	}
}

// Truncate cuts a file of a backup to half its length.
func (l *Location) Truncate(t testing.TB, backup, suffix string) {
	t.Helper()
	l.edit(t, backup, suffix, func(b []byte) []byte { return b[:len(b)/2] })
}

// Garble overwrites a file of a backup with as many bytes that mean nothing.
func (l *Location) Garble(t testing.TB, backup, suffix string) {
	t.Helper()
	l.edit(t, backup, suffix, func(b []byte) []byte { return bytes.Repeat([]byte{0xa5}, len(b)) })
}

func (l *Location) edit(t testing.TB, backup, suffix string, change func([]byte) []byte) {
	t.Helper()
	path := l.File(backup, suffix)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
