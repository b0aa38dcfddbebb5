package volume

// mbrTypeName names the MBR types that virtual machines meet; the list of all types is
// maintained by nobody.
func mbrTypeName(kind string) string {
	switch kind {
	case "0x01":
		return "FAT12"
	case "0x04", "0x06", "0x0e":
		return "FAT16"
	case "0x0b", "0x0c":
		return "FAT32"
	case "0x07":
		return "NTFS or exFAT"
	case "0x27":
		return "Windows recovery"
	case "0x42":
		return "Windows dynamic disk"
	case "0x82":
		return "Linux swap"
	case "0x83":
		return "Linux filesystem"
	case "0x8e":
		return "Linux LVM"
	case "0xa5":
		return "FreeBSD"
	case "0xa6":
		return "OpenBSD"
	case "0xa9":
		return "NetBSD"
	case "0xbf":
		return "Solaris"
	case "0xef":
		return "EFI System"
	case "0xfb":
		return "VMware VMFS"
	case "0xfd":
		return "Linux RAID"
	}
	return ""
}

// gptTypeName names the type GUIDs that virtual machines meet (UEFI specification, and the
// Discoverable Partitions Specification for Linux).
func gptTypeName(kind string) string {
	switch kind {
	case "c12a7328-f81f-11d2-ba4b-00a0c93ec93b":
		return "EFI System"
	case "21686148-6449-6e6f-744e-656564454649":
		return "BIOS boot"
	case "024dee41-33e7-11d3-9d69-0008c781f39f":
		return "MBR partition scheme"
	case "0fc63daf-8483-4772-8e79-3d69d8477de4":
		return "Linux filesystem"
	case "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f":
		return "Linux swap"
	case "e6d6d379-f507-44c2-a23c-238f2a3df928":
		return "Linux LVM"
	case "a19d880f-05fc-4d3b-a006-743f0f84911e":
		return "Linux RAID"
	case "ca7d7ccb-63ed-4c53-861c-1742536059cc":
		return "Linux LUKS"
	case "bc13c2ff-59e6-4262-a352-b275fd6f7172":
		return "Linux extended boot"
	case "4f68bce3-e8cd-4db1-96e7-fbcaf984b709":
		return "Linux root (x86-64)"
	case "b921b045-1df0-41c3-af44-4c6f280d3fae":
		return "Linux root (ARM64)"
	case "8484680c-9521-48c6-9c11-b0720656f69e":
		return "Linux /usr (x86-64)"
	case "933ac7e1-2eb4-4f13-b844-0e14e2aef915":
		return "Linux home"
	case "3b8f8425-20e0-4f3b-907f-1a25a76f98e8":
		return "Linux server data"
	case "4d21b016-b534-45c2-a9fb-5c16e091fd2d":
		return "Linux variable data"
	case "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7":
		return "Microsoft basic data"
	case "e3c9e316-0b5c-4db8-817d-f92df00215ae":
		return "Microsoft reserved"
	case "de94bba4-06d1-4d40-a16a-bfd50179d6ac":
		return "Windows recovery"
	case "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3":
		return "Windows dynamic disk metadata"
	case "af9b60a0-1431-4f62-bc68-3311714a69ad":
		return "Windows dynamic disk"
	case "e75caf8f-f680-4cee-afa3-b001e56efc2d":
		return "Microsoft Storage Spaces"
	case "516e7cb6-6ecf-11d6-8ff8-00022d09712b":
		return "FreeBSD UFS"
	case "516e7cba-6ecf-11d6-8ff8-00022d09712b":
		return "FreeBSD ZFS"
	case "6a898cc3-1dd2-11b2-99a6-080020736631":
		return "ZFS"
	case "48465300-0000-11aa-aa11-00306543ecac":
		return "Apple HFS+"
	case "7c3457ef-0000-11aa-aa11-00306543ecac":
		return "Apple APFS"
	}
	return ""
}
