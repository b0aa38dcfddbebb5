//go:build !guestfs

package guestfs

const available = false
