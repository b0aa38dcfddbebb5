package velero

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	t.Parallel()
	const real = `{"apps/v1/Deployment":["shop/db"],"kubevirt.io/v1/VirtualMachine":["bank/db","shop/db","shop/web"],"v1/Pod":["shop/db"]}`
	for name, c := range map[string]struct {
		in   string
		want bool
		err  string
	}{
		"in it":             {real, true, ""},
		"an older version":  {`{"kubevirt.io/v1alpha3/VirtualMachine":["shop/db"]}`, true, ""},
		"an instance":       {`{"kubevirt.io/v1/VirtualMachineInstance":["shop/db"]}`, false, ""},
		"another namespace": {`{"kubevirt.io/v1/VirtualMachine":["shop2/db","shop/db2","db"]}`, false, ""},
		"another group":     {`{"x.kubevirt.io/v1/VirtualMachine":["shop/db"]}`, false, ""},
		"empty":             {`{}`, false, ""},
		"an empty kind":     {`{"kubevirt.io/v1/VirtualMachine":[]}`, false, ""},
		"space":             {" { \"v1/Pod\" : [ ] } \n", false, ""},
		"nothing":           {``, false, "unexpected EOF"},
		"cut":               {`{"v1/Pod":["shop/db`, false, "unexpected EOF"},
		"cut after a kind":  {`{"v1/Pod":["shop/db"]`, false, "unexpected EOF"},
		"a list":            {`["shop/db"]`, false, "no {"},
		"no list":           {`{"v1/Pod":{}}`, false, "no ["},
		"a number":          {`{"v1/Pod":[1]}`, false, "no name"},
		"no JSON":           {`<xml/>`, false, "invalid character"},
		"a long name":       {`{"v1/Pod":["` + strings.Repeat("x", 1<<20) + `"]}`, false, "more than 64 KiB"},
		"much space":        {`{"v1/Pod":[` + strings.Repeat(" ", 1<<20) + `]}`, false, "more than 64 KiB"},
		"deep":              {strings.Repeat("[", 1<<20), false, "no {"},
	} {
		got, err := listHasVM(strings.NewReader(c.in), guest)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && (!errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, %v, want %v %q", name, got, err, c.want, c.err)
		}
	}
}

// A list of millions passes in the memory of one name.
func TestListMemory(t *testing.T) {
	const names = 2_000_000
	r, w := io.Pipe()
	go func() {
		var b bytes.Buffer
		b.WriteString(`{"v1/Pod":["a/b"`)
		for i := range names {
			fmt.Fprintf(&b, `,"namespace-%d/pod-%d"`, i%100, i)
			if b.Len() > 64<<10 {
				_, _ = b.WriteTo(w)
			}
		}
		b.WriteString(`],"kubevirt.io/v1/VirtualMachine":["shop/db"]}`)
		_, _ = b.WriteTo(w)
		_ = w.Close()
	}()
	in := &widest{r: r}
	if has, err := listHasVM(in, guest); !has || err != nil {
		t.Fatal(has, err)
	}
	// The decoder asks for as much as its buffer has room for.
	if in.widest > maxToken {
		t.Errorf("the decoder's buffer grew to %d bytes", in.widest)
	}
}

// widest notes the largest read.
type widest struct {
	r      io.Reader
	widest int
}

func (w *widest) Read(p []byte) (int, error) {
	w.widest = max(w.widest, len(p))
	return w.r.Read(p)
}
