// Package distro runs the built vmfr-agent on a real distribution's disk and compares what arrives
// by FUSE, SFTP and HTTPS with what the kernel shows. Its tests need root and are slow; -short
// leaves them out.
package distro
