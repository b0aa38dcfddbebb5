package csi

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultSize = 1 << 30 // bytes, where a request names none
	// sizeUnit is what sizes are a multiple of, in bytes: a page, which any file system's blocks fit.
	sizeUnit = 4096
)

// ControllerGetCapabilities says what the controller service can do.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	a := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT, csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER} {
		a.Capabilities = append(a.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}}})
	}
	return a, nil
}

// CreateVolume makes a volume, empty or a copy of a snapshot or of a volume, which may be in use. A copy has the size of
// its source.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "the volume has no name")
	}
	if err := checkCapabilities(r.VolumeCapabilities); err != nil {
		return nil, err
	}
	id := idOf(r.Name)
	defer d.busy.lock(id)()
	if have, err := d.volumes.get(id); err == nil {
		if have.Source != sourceOf(r.VolumeContentSource) || !fits(have.Size, r.CapacityRange) {
			return nil, status.Errorf(codes.AlreadyExists, "volume %q has %d bytes or another source", r.Name, have.Size)
		}
		return d.created(have), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}

	size, from, err := d.content(r)
	if err != nil {
		return nil, err
	}
	v := record{ID: id, Name: r.Name, Size: size, Source: sourceOf(r.VolumeContentSource), Created: time.Now()}
	err = d.volumes.put(v, func(image *os.File) error {
		if from == "" {
			return image.Truncate(size)
		}
		return d.copyInstant(ctx, image, from)
	})
	if err != nil {
		return nil, err
	}
	return d.created(v), nil
}

// content returns the size of the volume that is asked for and the image that it is a copy of,
// "" for none.
func (d *Driver) content(r *csi.CreateVolumeRequest) (size int64, image string, err error) {
	shelf, kind := d.snapshots, "snapshot"
	switch source := sourceOf(r.VolumeContentSource); {
	case source.Snapshot != "":
		image = source.Snapshot
	case source.Volume != "":
		shelf, kind, image = d.volumes, "volume", source.Volume
	case r.VolumeContentSource != nil:
		return 0, "", status.Error(codes.InvalidArgument, "a source is neither a snapshot nor a volume")
	default:
		size, err := sizeFor(r.CapacityRange)
		return size, "", err
	}
	have, err := shelf.get(image)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, "", status.Errorf(codes.NotFound, "the source, %s %q, does not exist", kind, image)
	}
	if err != nil {
		return 0, "", err
	}
	if !fits(have.Size, r.CapacityRange) {
		return 0, "", status.Errorf(codes.OutOfRange, "a copy of %s %q has its size, %d bytes", kind, image, have.Size)
	}
	return have.Size, shelf.image(image), nil
}

func (d *Driver) created(v record) *csi.CreateVolumeResponse {
	a := &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Size}
	switch {
	case v.Source.Snapshot != "":
		a.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: v.Source.Snapshot}}}
	case v.Source.Volume != "":
		a.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.Source.Volume}}}
	}
	return &csi.CreateVolumeResponse{Volume: a}
}

// DeleteVolume deletes a volume that no pod uses. Its copies and snapshots stay.
func (d *Driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "the volume has no ID")
	}
	if !safeID.MatchString(r.VolumeId) { // none of ours
		return &csi.DeleteVolumeResponse{}, nil
	}
	defer d.busy.lock(r.VolumeId)()
	switch loops, err := loopsOf(d.volumes.image(r.VolumeId)); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case len(loops) > 0:
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is in use, as %s", r.VolumeId, loops[0].path())
	}
	return &csi.DeleteVolumeResponse{}, d.volumes.remove(r.VolumeId)
}

// ValidateVolumeCapabilities tells whether a volume can be used in the given ways.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := d.volume(r.VolumeId); err != nil {
		return nil, err
	}
	if len(r.VolumeCapabilities) == 0 {
		return nil, checkCapabilities(nil)
	}
	if err := checkCapabilities(r.VolumeCapabilities); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.VolumeContext, VolumeCapabilities: r.VolumeCapabilities, Parameters: r.Parameters}}, nil
}

// CreateSnapshot takes a snapshot of a volume, which may be in use; see the package's comment for what it holds.
func (d *Driver) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if r.Name == "" || r.SourceVolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "a snapshot needs a name and a volume")
	}
	id := idOf(r.Name)
	defer d.busy.lock(id)()
	switch have, err := d.snapshots.get(id); {
	case err == nil && have.Source.Volume != r.SourceVolumeId:
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %q is of volume %q", r.Name, have.Source.Volume)
	case err == nil:
		return &csi.CreateSnapshotResponse{Snapshot: taken(have)}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	v, err := d.volume(r.SourceVolumeId)
	if err != nil {
		return nil, err
	}
	s := record{ID: id, Name: r.Name, Size: v.Size, Source: origin{Volume: v.ID}, Created: time.Now()}
	if err := d.snapshots.put(s, func(image *os.File) error { return d.copyInstant(ctx, image, d.volumes.image(v.ID)) }); err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: taken(s)}, nil
}

func taken(s record) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: s.ID, SourceVolumeId: s.Source.Volume, SizeBytes: s.Size, CreationTime: timestamppb.New(s.Created), ReadyToUse: true}
}

// DeleteSnapshot deletes a snapshot. Volumes that were made of it stay.
func (d *Driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.SnapshotId == "" {
		return nil, status.Error(codes.InvalidArgument, "the snapshot has no ID")
	}
	if !safeID.MatchString(r.SnapshotId) {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	defer d.busy.lock(r.SnapshotId)()
	return &csi.DeleteSnapshotResponse{}, d.snapshots.remove(r.SnapshotId)
}

// ListSnapshots lists snapshots in pages. A token is the ID of the last one that was listed.
func (d *Driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	all, err := d.snapshots.list()
	if err != nil {
		return nil, err
	}
	if token := r.StartingToken; token != "" {
		i := slices.IndexFunc(all, func(s record) bool { return s.ID == token })
		if i < 0 {
			return nil, status.Errorf(codes.Aborted, "the token %s is of a list that has changed: list again", strconv.Quote(token))
		}
		all = all[i+1:]
	}
	a := &csi.ListSnapshotsResponse{}
	for _, s := range all {
		if r.SnapshotId != "" && r.SnapshotId != s.ID || r.SourceVolumeId != "" && r.SourceVolumeId != s.Source.Volume {
			continue
		}
		if r.MaxEntries > 0 && len(a.Entries) == int(r.MaxEntries) {
			a.NextToken = a.Entries[len(a.Entries)-1].Snapshot.SnapshotId
			break
		}
		a.Entries = append(a.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: taken(s)})
	}
	return a, nil
}

// volume returns the record of a volume that is to exist.
func (d *Driver) volume(id string) (record, error) {
	if id == "" {
		return record{}, status.Error(codes.InvalidArgument, "the volume has no ID")
	}
	v, err := d.volumes.get(id)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, status.Errorf(codes.NotFound, "volume %q does not exist", id)
	}
	return v, err
}

func sourceOf(s *csi.VolumeContentSource) origin {
	return origin{Snapshot: s.GetSnapshot().GetSnapshotId(), Volume: s.GetVolume().GetVolumeId()}
}

// sizeFor is the size of an empty volume.
func sizeFor(r *csi.CapacityRange) (int64, error) {
	size, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if size < 0 || limit < 0 || limit > 0 && size > limit {
		return 0, status.Errorf(codes.InvalidArgument, "from %d to %d bytes is no range", size, limit)
	}
	if size == 0 {
		if size = defaultSize; limit > 0 {
			size = min(size, limit/sizeUnit*sizeUnit)
		}
	}
	const most = 1 << 62 // the next multiple is not beyond an int64
	if size > most || size == 0 {
		return 0, status.Errorf(codes.OutOfRange, "no volume has %d bytes", r.GetRequiredBytes())
	}
	size = (size + sizeUnit - 1) / sizeUnit * sizeUnit
	if limit > 0 && size > limit {
		return 0, status.Errorf(codes.OutOfRange, "sizes are multiples of %d bytes, and none is between %d and %d", sizeUnit, r.GetRequiredBytes(), limit)
	}
	return size, nil
}

// fits tells whether a size is in the range.
func fits(size int64, r *csi.CapacityRange) bool {
	return size >= r.GetRequiredBytes() && (r.GetLimitBytes() == 0 || size <= r.GetLimitBytes())
}

// checkCapabilities refuses what volumes cannot be used as. A volume is on one node at a time, where
// any number of pods may use it, so every access mode is as good as the others.
func checkCapabilities(all []*csi.VolumeCapability) error {
	if len(all) == 0 {
		return status.Error(codes.InvalidArgument, "the request does not say how the volume is used")
	}
	for _, c := range all {
		if c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_UNKNOWN {
			return status.Error(codes.InvalidArgument, "the request has no access mode")
		}
		switch m := c.GetMount(); {
		case c.GetBlock() != nil:
		case m == nil:
			return status.Error(codes.InvalidArgument, "a volume is a block device or a file system")
		case m.FsType != "" && m.FsType != fsType:
			return status.Errorf(codes.InvalidArgument, "the file system is %s, not %q", fsType, m.FsType)
		case len(m.MountFlags) > 0:
			return status.Errorf(codes.InvalidArgument, "mount options are not known: %q", m.MountFlags)
		}
	}
	return nil
}
