package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestInflateForgets: what is read from a damaged stream, and said of it, does not depend on the
// streams that the same decoder has inflated before.
func TestInflateForgets(t *testing.T) {
	const cluster = 64 << 10
	zstd, err := newZstd()
	if err != nil {
		t.Fatal(err)
	}
	defer zstd.Close()
	fresh := func() *packs { return &packs{zstd: zstd} }
	for _, c := range []struct {
		name   string
		sound  [][]byte
		damage func(rng *rand.Rand, sound []byte) []byte
		decode func(p *packs, out, src []byte) error
		fresh  func() *packs
	}{
		{"deflate, flipped bits", streams(deflated), flipped, (*packs).inflate, fresh},
		{"deflate, no code lengths' codes", streams(deflated), uncoded, (*packs).inflate, fresh},
		{"zstd, flipped bits", streams(zstded), flipped, (*packs).unzstd, func() *packs {
			z, err := newZstd()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(z.Close)
			return &packs{zstd: z}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			used := fresh()
			decode := func(p *packs, src []byte) string {
				out := make([]byte, cluster)
				err := c.decode(p, out, src)
				return fmt.Sprintf("%v %x", err, out)
			}
			refused := 0
			for i := range 300 {
				sound := c.sound[rng.IntN(len(c.sound))]
				if got, want := decode(used, sound), decode(c.fresh(), sound); got != want || got[:5] != "<nil>" {
					t.Fatalf("case %d: a sound stream: %.100s, by a fresh decoder %.100s", i, got, want)
				}
				src := c.damage(rng, sound)
				got, want := decode(used, src), decode(c.fresh(), src)
				if got != want {
					t.Fatalf("case %d: %.100s, by a fresh decoder %.100s", i, got, want)
				}
				if got[:5] != "<nil>" {
					refused++
				}
			}
			if refused < 30 {
				t.Errorf("only %d of 300 damaged streams were refused", refused)
			}
		})
	}
}

// streams returns compressed clusters of several kinds.
func streams(compress func([]byte) []byte) (list [][]byte) {
	noise := guestBytes(1, 64<<10)
	for _, b := range [][]byte{noise, bytes.Repeat([]byte("D"), 64<<10), bytes.Repeat([]byte("all work and no play "), 4000)[:64<<10]} {
		list = append(list, compress(b))
	}
	return list
}

// flipped flips up to three bits, most often near the start, where the trees are.
func flipped(rng *rand.Rand, sound []byte) []byte {
	b := bytes.Clone(sound)
	for range 1 + rng.IntN(3) {
		b[rng.IntN(min(len(b), 100))] ^= 1 << rng.IntN(8)
	}
	return b
}

// uncoded is a dynamic block whose tree for code lengths is empty, before random bytes.
func uncoded(rng *rand.Rand, _ []byte) []byte {
	b := make([]byte, 4000)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	copy(b, []byte{1 | 2<<1, 0, 0}) // the last block, dynamic; HLIT, HDIST, HCLEN 0, which makes 4 lengths of 3 bits: all 0
	b[3] &^= 0x1f
	return b
}
