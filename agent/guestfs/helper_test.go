//go:build guestfs

package guestfs

import "vmfr/agent/guestfs/helper"

func init() { realHelper = helper.Run }
