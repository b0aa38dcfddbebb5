// Package helper is the process that runs one libguestfs appliance for one backup: it gets
// requests (package wire) over an inherited socket, calls libguestfs, and answers.
//
// It needs cgo, the library and the build tag guestfs; without the tag there is nothing in it but
// the probe for KVM. It runs in a sandbox of its own (package sandbox, or Confine), since a guest's file system could take over the
// appliance and, from there, attack qemu and this process.
//
// Invariants: the disks are added read-only; libguestfs puts a temporary overlay before each,
// so that the appliance's kernel can replay logs without the image ever being written. When the
// socket ends, or libguestfs loses its appliance, the process ends.
package helper
