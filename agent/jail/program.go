package jail

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programFile is one file that the program needs.
type programFile struct {
	name string // in the jail's program folder
	file *os.File
}

// program is what has to be in the jail for a program to run.
type program struct {
	name   string // of the program itself in its folder
	loader string // the dynamic loader's name; empty: a static program
	files  []programFile
}

// openProgram opens the program at path and the libraries that its own loader finds for it.
func openProgram(path string) (p program, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return p, err
	}
	p.name = filepath.Base(path)
	if err := p.open(path, p.name); err != nil {
		return p, err
	}
	loader, libraries, err := Libraries(path)
	if err != nil || loader == "" {
		return p, err
	}
	p.loader = filepath.Base(loader)
	if err := p.open(loader, p.loader); err != nil {
		return p, err
	}
	for _, file := range libraries {
		if err := p.open(file, filepath.Base(file)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Libraries returns the paths of the dynamic loader that an ELF program names, empty for a static
// one, and of the libraries that this loader finds for it, each by the name that it is asked for.
func Libraries(path string) (loader string, libraries []string, err error) {
	loader, err = interpreter(path)
	if err != nil || loader == "" {
		return loader, nil, err
	}
	cmd := exec.Command(loader, "--list", path)
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		return "", nil, fmt.Errorf("the libraries of %s: %w", path, err)
	}
	for line := range strings.Lines(string(out)) {
		// "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)"; the loader and the vDSO have no "=>".
		name, rest, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if !ok {
			continue
		}
		file, _, _ := strings.Cut(rest, " (")
		if !filepath.IsAbs(file) {
			return "", nil, fmt.Errorf("the library %s of %s is missing", name, path)
		}
		if name = filepath.Base(name); name == filepath.Base(loader) {
			continue // musl's is a library as well
		}
		libraries = append(libraries, filepath.Join(filepath.Dir(file), name))
	}
	return loader, libraries, nil
}

// interpreter is the dynamic loader that an ELF program names; empty for a static one.
func interpreter(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(s.Open(), 4096))
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return strings.TrimRight(string(b), "\x00"), nil
	}
	return "", nil
}

func (p *program) open(path, name string) error {
	f, err := os.Open(path)
	if err == nil {
		p.files = append(p.files, programFile{name, f})
	}
	return err
}

func (p *program) close() {
	for _, f := range p.files {
		_ = f.file.Close()
	}
	p.files = nil
}

// install copies the files into dir.
func (p *program) install(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	for _, f := range p.files {
		to, err := os.OpenFile(filepath.Join(dir, f.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, f.file)
		if cerr := to.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// argv is the command line that runs the program in dir with args, whose first is its name. The
// loader is called by name, since the jail has nothing where the program expects it: a guest's
// absolute links must not lead to the jail's own libraries.
func (p *program) argv(dir string, args []string) []string {
	at := filepath.Join(dir, p.name)
	if p.loader == "" {
		return append([]string{at}, args...)
	}
	return append([]string{filepath.Join(dir, p.loader), p.loader, "--library-path", dir, "--argv0", args[0], at}, args[1:]...)
}
