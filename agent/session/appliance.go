package session

import api "vmfr/api/session"

// HelperFiles are the descriptors of a libguestfs helper, in the order in which they come: its
// connection, what it prints, and the socket whose end is its end; see guestfs.Helper.
const HelperFiles = 3

// Appliance asks for a libguestfs helper for one of the worker's backups. A worker asks for one at
// a time; Helper is the answer.
type Appliance struct {
	Backup string `json:"backup"`
	Disks  int    `json:"disks"` // that the helper will be given: those of the backup that can be read
}

// Helper answers an Appliance: with a helper's files, or else with why it has to be waited for,
// and another Helper follows, or why there is none, and what to do.
type Helper struct {
	Backup  string `json:"backup"`
	Waiting string `json:"waiting,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Spare asks the worker to end helpers that nobody uses right now: others wait for their place.
type Spare struct{}

func (a *Appliance) validate() error {
	if a.Backup == "" || len(a.Backup) > api.MaxName {
		return protocolf("a backup's name of %d bytes", len(a.Backup))
	}
	if a.Disks < 1 || a.Disks > api.MaxDisks {
		return protocolf("%d disks, not 1 to %d", a.Disks, api.MaxDisks)
	}
	return nil
}

func (h *Helper) validate() (files int, err error) {
	if h.Backup == "" || len(h.Backup) > api.MaxName {
		return 0, protocolf("a backup's name of %d bytes", len(h.Backup))
	}
	if h.Waiting != "" && h.Error != "" {
		return 0, protocolf("an answer that is two")
	}
	if h.Waiting == "" && h.Error == "" {
		files = HelperFiles
	}
	for _, s := range [...]string{h.Waiting, h.Error} {
		if err := checkText(s); err != nil {
			return 0, err
		}
	}
	return files, nil
}
