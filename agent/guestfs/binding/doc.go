// Package guestfs stands where libguestfs' own Go binding goes. The binding is generated for
// the installed library and no module proxy has it: Debian ships it, without a go.mod, in the
// package golang-guestfs-dev. `make binding` links that file, guestfs.go, beside this one;
// builds without the tag guestfs need neither the file nor the library.
package guestfs
