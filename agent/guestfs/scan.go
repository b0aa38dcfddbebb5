package guestfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

// scan asks a fresh appliance what is on the disks. The first answer stays; a later appliance
// must see the same, or the file systems that were handed out would be others.
func (a *Appliance) scan(p *process) error {
	a.setStage(stateStarting, stageScan)
	r := &wire.Request{Op: wire.Scan}
	for _, k := range a.f.opts.Keys {
		wk := wire.Key{Disk: -1, Secret: k.Secret}
		if k.Disk != "" {
			if wk.Disk = a.diskIndex(k.Disk); wk.Disk < 0 {
				continue // another backup's
			}
		}
		r.Keys = append(r.Keys, wk)
	}
	var volumes []wire.Volume
	err := p.do(a.ctx, r, func(reply *wire.Reply, _ []byte) error {
		volumes = reply.Volumes
		return a.checkVolumes(volumes)
	})
	if err != nil {
		return fmt.Errorf("libguestfs could not list the file systems of backup %q: %w", a.name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.volumes == nil {
		a.volumes = append([]wire.Volume{}, volumes...)
		return nil
	}
	if len(volumes) != len(a.volumes) {
		return fmt.Errorf("libguestfs sees %d file systems of backup %q and saw %d before; start the session again", len(volumes), a.name, len(a.volumes))
	}
	for i, v := range volumes {
		if v != a.volumes[i] {
			return fmt.Errorf("libguestfs sees %q on backup %q in place of %q; start the session again", v.Device, a.name, a.volumes[i].Device)
		}
	}
	return nil
}

func (a *Appliance) diskIndex(name string) int {
	for i, d := range a.disks {
		if d.Name == name || a.name+"/"+d.Name == name {
			return i
		}
	}
	return -1
}

// checkVolumes refuses what the helper cannot have found.
func (a *Appliance) checkVolumes(volumes []wire.Volume) error {
	if len(volumes) > wire.MaxFilesystems {
		return fmt.Errorf("%w: %d file systems", wire.ErrFrame, len(volumes))
	}
	for _, v := range volumes {
		if v.Disk < -1 || v.Disk >= len(a.disks) || v.Partition < 0 || !strings.HasPrefix(v.Device, "/dev/") ||
			len(v.Device)+len(v.Type)+len(v.Label)+len(v.UUID)+len(v.VG)+len(v.LV) > maxVolumeText || len(v.Subvolume) > maxPath {
			return fmt.Errorf("%w: a file system on disk %d, device %.100q", wire.ErrFrame, v.Disk, v.Device)
		}
	}
	return nil
}

const (
	maxVolumeText = 4096 // bytes of all names of one volume
	maxPath       = 4095 // bytes, as in the appliance's PATH_MAX
)

// Filesystems implements engine.Appliance.
func (a *Appliance) Filesystems(ctx context.Context) ([]engine.Found, error) {
	a.scanOnce.Lock()
	defer a.scanOnce.Unlock()
	a.mu.Lock()
	found := a.found
	a.mu.Unlock()
	if found != nil {
		return found, nil
	}
	p, release, err := a.use(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	a.stageOf(p, stateStarting, stageMount)
	defer a.stageOf(p, stateRunning, "")
	a.mu.Lock()
	volumes := a.volumes
	a.mu.Unlock()
	found = make([]engine.Found, 0, len(volumes))
	for i, v := range volumes {
		f := engine.Found{
			Device: v.Device, Partition: v.Partition, VG: v.VG, LV: v.LV, Encrypted: v.Encrypted, Subvolume: v.Subvolume,
			SubvolID: v.SubvolID, Default: v.Default, Type: v.Type, Label: v.Label, UUID: v.UUID,
		}
		if v.Disk >= 0 {
			f.Disk = a.disks[v.Disk].Name
		}
		if v.Locked {
			f.Err = a.lockedError(f)
			found = append(found, f)
			continue
		}
		fs, err := a.newFS(ctx, p, i, v)
		switch {
		case errors.Is(err, errGone), ctx.Err() != nil, errors.Is(err, ErrClosed):
			return nil, err
		case err != nil:
			f.Err = err
		default:
			f.FS = fs
		}
		found = append(found, f)
	}
	a.mu.Lock()
	a.found = found
	a.mu.Unlock()
	return found, nil
}

// lockedError says what to do about an encrypted volume that stayed locked.
func (a *Appliance) lockedError(f engine.Found) error {
	where := f.Device
	switch {
	case f.Disk != "" && f.Partition > 0:
		where = fmt.Sprintf("partition %d of disk %s", f.Partition, f.Disk)
	case f.Disk != "":
		where = "disk " + f.Disk
	case f.VG != "":
		where = fmt.Sprintf("logical volume %s/%s", f.VG, f.LV)
	}
	source := a.f.opts.KeySource
	what := "there is no key for it: give its passphrase with " + source
	if a.hasKey(f.Disk) {
		what = "no key that was given opens it: check " + source
	}
	for _, err := range a.f.opts.BadKeys {
		what += "; " + err.Error()
	}
	return fmt.Errorf("%w: %s is encrypted (%s, UUID %s) and %s", fsys.ErrNoKey, where, f.Type, f.UUID, what)
}

func (a *Appliance) hasKey(disk string) bool {
	for _, k := range a.f.opts.Keys {
		if k.Disk == "" || disk == "" || k.Disk == disk || k.Disk == a.name+"/"+disk {
			return true
		}
	}
	return false
}

// mountResult is a mount's outcome in one process.
type mountResult struct {
	mounted *wire.Mounted
	err     error
}

// mount mounts volume i in p unless it is.
func (a *Appliance) mount(ctx context.Context, p *process, i int, v *wire.Volume) (*wire.Mounted, error) {
	p.mounting.Lock()
	defer p.mounting.Unlock()
	if m, ok := p.mounts[i]; ok {
		return m.mounted, m.err
	}
	var m mountResult
	r := &wire.Request{Op: wire.Mount, Device: v.Device, Options: mountOptions(v), Path: []byte(mountpoint(i))}
	m.err = p.do(ctx, r, func(reply *wire.Reply, _ []byte) error {
		if m.mounted = reply.Mounted; m.mounted == nil || m.mounted.Root.Mode&int64(fsys.ModeFmt) != int64(fsys.ModeDir) || m.mounted.Root.Ino <= 0 {
			return fmt.Errorf("%w: no root directory", wire.ErrFrame)
		}
		return nil
	})
	var ae *applianceError
	switch {
	case m.err == nil:
	case errors.As(m.err, &ae) && !p.ended():
		m.err = fmt.Errorf("%s cannot be mounted: %w", v.Device, m.err)
	default:
		return nil, m.err // of the helper, not of the file system
	}
	p.mounts[i] = m
	return m.mounted, m.err
}

// mountOptions are the kernel's. ro keeps a file system from being changed, but not its log
// from being replayed, since the appliance's disks are writable overlays over read-only images.
func mountOptions(v *wire.Volume) string {
	switch v.Type {
	case "btrfs":
		return fmt.Sprintf("ro,subvolid=%d", v.SubvolID)
	case "xfs":
		return "ro,nouuid" // a snapshot on another disk may have the same
	case "vfat":
		return "ro,utf8=1,tz=UTC"
	case "iso9660", "udf":
		return "ro,iocharset=utf8"
	}
	return "ro"
}

func mountpoint(i int) string { return fmt.Sprintf("/m%d", i) }
