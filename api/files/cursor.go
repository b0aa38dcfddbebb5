package files

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// A cursor is a position in one folder, signed: engines only ever see positions that they
// gave out for that folder. In base64 (URL alphabet, no padding):
//
//	0        8                24
//	| cookie | HMAC-SHA-256   |   of the folder's ID and the cookie, cut to 16 bytes
const cursorMAC = 16

var errCursor = errors.New("not a cursor of this folder")

func (h *handler) cursor(dir tree.Node, at fsys.Cookie) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(at))
	return base64.RawURLEncoding.EncodeToString(append(b, h.sign(dir, b)...))
}

func (h *handler) openCursor(dir tree.Node, s string) (fsys.Cookie, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 8+cursorMAC || !hmac.Equal(b[8:], h.sign(dir, b[:8])) {
		return 0, errCursor
	}
	return fsys.Cookie(binary.BigEndian.Uint64(b)), nil
}

// seal and unseal are cursor and openCursor for a number in a list of its own kind.
func (h *handler) seal(dir tree.Node, kind byte, at uint64) string {
	b := binary.BigEndian.AppendUint64(nil, at)
	return base64.RawURLEncoding.EncodeToString(append(b, h.sign(dir, append(b, kind))...))
}

func (h *handler) unseal(dir tree.Node, kind byte, s string) (uint64, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 8+cursorMAC || !hmac.Equal(b[8:], h.sign(dir, append(b[:8:8], kind))) {
		return 0, errCursor
	}
	return binary.BigEndian.Uint64(b), nil
}

func (h *handler) sign(dir tree.Node, cookie []byte) []byte {
	m := hmac.New(sha256.New, h.key[:])
	m.Write(binary.BigEndian.AppendUint64(nil, h.tree.ID(dir)))
	m.Write(cookie)
	return m.Sum(nil)[:cursorMAC]
}
