package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fsType is the file system of Filesystem volumes.
const fsType = "ext4"

// NodeGetInfo says which node this is.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

// NodeGetCapabilities says that volumes are staged first.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	a := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER} {
		a.Capabilities = append(a.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return a, nil
}

// NodeStageVolume attaches a volume's loop device. A Filesystem volume is mounted at the staging
// path, and gets its file system before where it is blank.
func (d *Driver) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	v, image, unlock, err := d.begin(r.VolumeId, r.StagingTargetPath, r.VolumeCapability)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.awaitHere(ctx, v, image); err != nil {
		return nil, err
	}
	if r.VolumeCapability.GetBlock() != nil {
		_, err := d.device(v, image, false)
		return &csi.NodeStageVolumeResponse{}, err
	}
	at, err := lookAt(r.StagingTargetPath)
	if err != nil {
		return nil, err
	}
	if at.mount {
		return &csi.NodeStageVolumeResponse{}, at.checkFilesystem(v, image)
	}
	if err := format(ctx, image); err != nil {
		return nil, err
	}
	l, dev, err := attach(image, d.node, false, true)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if err := d.here(v, image); err != nil { // another node was as fast; the device goes when it is closed
		return nil, err
	}
	if err := os.MkdirAll(r.StagingTargetPath, 0o750); err != nil {
		return nil, err
	}
	if err := unix.Mount(l.path(), r.StagingTargetPath, fsType, 0, ""); err != nil {
		return nil, &fs.PathError{Op: "mount", Path: r.StagingTargetPath, Err: err}
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// NodeUnstageVolume undoes NodeStageVolume. It ends when the volume's loop devices are gone, and
// fails where something on the node still uses one.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if r.StagingTargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the request has no staging path")
	}
	if _, err := d.volume(r.VolumeId); err != nil {
		return nil, err
	}
	defer d.busy.lock(r.VolumeId)()
	if err := unmount(r.StagingTargetPath); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, detachAll(d.volumes.image(r.VolumeId), d.node)
}

// NodePublishVolume gives a staged volume to a pod: the staged file system or the device itself at
// the target path. A Block volume that is read only there is a device of its own, since a read-only mount does
// not keep a device node from being written; it shows what was written before it was attached.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.TargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the request has no target path")
	}
	v, image, unlock, err := d.begin(r.VolumeId, r.StagingTargetPath, r.VolumeCapability)
	if err != nil {
		return nil, err
	}
	defer unlock()
	readOnly := r.Readonly
	switch r.VolumeCapability.AccessMode.Mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		readOnly = true
	}
	if r.VolumeCapability.GetBlock() != nil {
		return &csi.NodePublishVolumeResponse{}, d.publishDevice(v, image, r.TargetPath, readOnly)
	}
	return &csi.NodePublishVolumeResponse{}, publishFilesystem(v, image, r.StagingTargetPath, r.TargetPath, readOnly)
}

// NodeUnpublishVolume undoes NodePublishVolume.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.TargetPath == "" {
		return nil, status.Error(codes.InvalidArgument, "the request has no target path")
	}
	if _, err := d.volume(r.VolumeId); err != nil {
		return nil, err
	}
	defer d.busy.lock(r.VolumeId)()
	if err := unmount(r.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// begin checks what staging and publishing have in common, and locks the volume.
func (d *Driver) begin(id, staging string, c *csi.VolumeCapability) (v record, image string, unlock func(), err error) {
	if id == "" || staging == "" || c == nil {
		return v, "", nil, status.Error(codes.InvalidArgument, "the request lacks the volume, its staging path or how it is used")
	}
	if err := checkCapabilities([]*csi.VolumeCapability{c}); err != nil {
		return v, "", nil, err
	}
	if v, err = d.volume(id); err != nil {
		return v, "", nil, err
	}
	unlock = d.busy.lock(id)
	return v, d.volumes.image(id), unlock, nil
}

// publishFilesystem shows the file system that is mounted at staging at target, too.
func publishFilesystem(v record, image, staging, target string, readOnly bool) error {
	at, err := lookAt(staging)
	if err != nil {
		return err
	}
	if !at.mount {
		return status.Errorf(codes.FailedPrecondition, "volume %q is not staged at %s", v.ID, staging)
	}
	if err := at.checkFilesystem(v, image); err != nil {
		return err
	}
	if at, err = lookAt(target); err != nil {
		return err
	}
	if at.mount {
		if at.readOnly != readOnly {
			return status.Errorf(codes.AlreadyExists, "volume %q is published at %s with other rights", v.ID, target)
		}
		return at.checkFilesystem(v, image)
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	if err := unix.Mount(staging, target, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(&fs.PathError{Op: "mount", Path: target, Err: err}, os.Remove(target))
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(&fs.PathError{Op: "remount", Path: target, Err: err}, unmount(target), os.Remove(target))
	}
	return nil
}

// publishDevice shows the volume's loop device at target.
func (d *Driver) publishDevice(v record, image, target string, readOnly bool) error {
	loops, err := loopsOf(image)
	if err != nil {
		return err
	}
	if len(loops) == 0 {
		return status.Errorf(codes.FailedPrecondition, "volume %q is not staged", v.ID)
	}
	l, err := d.device(v, image, readOnly)
	if err != nil {
		return err
	}
	at, err := lookAt(target)
	if err != nil {
		return err
	}
	if at.mount {
		if want, err := lookAt(l.path()); err != nil || want.node != at.node {
			return errors.Join(err, status.Errorf(codes.AlreadyExists, "something else is at %s", target))
		}
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount(l.path(), target, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(&fs.PathError{Op: "mount", Path: target, Err: err}, os.Remove(target))
	}
	return nil
}

// here is nil unless another node uses the volume. Whatever its access mode is, a volume is on one
// node at a time: a file system cannot be mounted twice, and a block device has a cache.
func (d *Driver) here(v record, image string) error {
	loops, err := loopsOf(image)
	if err != nil {
		return err
	}
	for _, l := range loops {
		if l.node != d.node {
			return status.Errorf(codes.FailedPrecondition, "volume %q is in use on node %s", v.ID, l.node)
		}
	}
	return nil
}

// moveLimit is how long a node waits for a volume that another one is about to give up: the kubelet
// would try again after ever longer pauses.
const moveLimit = 10 * time.Second

// awaitHere waits until no other node uses the volume.
func (d *Driver) awaitHere(ctx context.Context, v record, image string) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	for {
		err := d.here(v, image)
		if status.Code(err) != codes.FailedPrecondition {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// device returns the loop device of a Block volume, which it attaches unless it is there.
func (d *Driver) device(v record, image string, readOnly bool) (loop, error) {
	loops, err := loopsOf(image)
	if err != nil {
		return loop{}, err
	}
	for _, l := range loops {
		if l.readOnly == readOnly {
			return l, nil
		}
		if err := l.flush(); err != nil { // into the file, for the other device
			return loop{}, err
		}
	}
	l, dev, err := attach(image, d.node, readOnly, false)
	if err != nil {
		return loop{}, err
	}
	if err := d.here(v, image); err != nil { // another node was as fast
		return loop{}, errors.Join(err, l.detach(), dev.Close())
	}
	return l, dev.Close()
}

// place is what is at a path.
type place struct {
	mount      bool   // something is mounted there
	readOnly   bool   // through this mount
	filesystem uint64 // device number of the file system
	node       uint64 // device number that a device node stands for
}

// lookAt tells what is at a path; nothing: the zero place.
func lookAt(path string) (place, error) {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &x)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, nil
	}
	if err != nil {
		return place{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return place{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return place{
		mount:      x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		readOnly:   s.Flags&unix.ST_RDONLY != 0,
		filesystem: unix.Mkdev(x.Dev_major, x.Dev_minor),
		node:       unix.Mkdev(x.Rdev_major, x.Rdev_minor),
	}, nil
}

// checkFilesystem is nil if the place is of the volume's file system.
func (p place) checkFilesystem(v record, image string) error {
	loops, err := loopsOf(image)
	if err != nil {
		return err
	}
	for _, l := range loops {
		if at, err := lookAt(l.path()); err == nil && at.node == p.filesystem {
			return nil
		}
	}
	return status.Errorf(codes.AlreadyExists, "something else than volume %q is mounted there", v.ID)
}

// unmount unmounts what is mounted at the path, however often.
func unmount(path string) error {
	for {
		at, err := lookAt(path)
		if err != nil || !at.mount {
			return err
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// format makes a file system in a blank image. One that holds anything else is refused. The file
// system is made beside the image and takes its place when it is complete.
func format(ctx context.Context, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	// The superblock's s_magic (Documentation/filesystems/ext4/super.rst).
	var magic [2]byte
	if _, err := f.ReadAt(magic[:], 1024+0x38); err != nil {
		return err
	}
	if bytes.Equal(magic[:], []byte{0x53, 0xef}) {
		return nil
	}
	if _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		return errors.Join(err, status.Errorf(codes.FailedPrecondition, "%s holds no %s, and is not blank", image, fsType))
	}
	if loops, err := loopsOf(image); err != nil || len(loops) > 0 {
		return errors.Join(err, status.Errorf(codes.FailedPrecondition, "%s is in use as a block device", image))
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	part := image + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a driver that was killed
		return err
	}
	// The file is a hole, so neither journal nor tables need zeroes, now or in the background.
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", fsType, "-E", "nodiscard,assume_storage_prezeroed=1",
		part, fmt.Sprintf("%dk", size>>10))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return errors.Join(os.Chmod(part, 0o600), os.Truncate(part, size), os.Rename(part, image))
}
