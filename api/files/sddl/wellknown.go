package sddl

// wellKnown are the SIDs that are the same on every machine ([MS-DTYP] 2.4.2.4), with their name
// and what SDDL calls them ([MS-DTYP] 2.5.1.1; empty: nothing).
var wellKnown = map[string]struct{ name, short string }{
	"S-1-0-0":        {"Nobody", ""},
	"S-1-1-0":        {"Everyone", "WD"},
	"S-1-3-0":        {"Creator Owner", "CO"},
	"S-1-3-1":        {"Creator Group", "CG"},
	"S-1-3-4":        {"Owner Rights", "OW"},
	"S-1-5-2":        {`NT AUTHORITY\Network`, "NU"},
	"S-1-5-4":        {`NT AUTHORITY\Interactive`, "IU"},
	"S-1-5-6":        {`NT AUTHORITY\Service`, "SU"},
	"S-1-5-7":        {`NT AUTHORITY\Anonymous Logon`, "AN"},
	"S-1-5-9":        {`NT AUTHORITY\Enterprise Domain Controllers`, "ED"},
	"S-1-5-10":       {`NT AUTHORITY\Self`, "PS"},
	"S-1-5-11":       {`NT AUTHORITY\Authenticated Users`, "AU"},
	"S-1-5-12":       {`NT AUTHORITY\Restricted`, "RC"},
	"S-1-5-18":       {`NT AUTHORITY\System`, "SY"},
	"S-1-5-19":       {`NT AUTHORITY\Local Service`, "LS"},
	"S-1-5-20":       {`NT AUTHORITY\Network Service`, "NS"},
	"S-1-5-33":       {`NT AUTHORITY\Write Restricted`, "WR"},
	"S-1-5-32-544":   {`BUILTIN\Administrators`, "BA"},
	"S-1-5-32-545":   {`BUILTIN\Users`, "BU"},
	"S-1-5-32-546":   {`BUILTIN\Guests`, "BG"},
	"S-1-5-32-547":   {`BUILTIN\Power Users`, "PU"},
	"S-1-5-32-548":   {`BUILTIN\Account Operators`, "AO"},
	"S-1-5-32-549":   {`BUILTIN\Server Operators`, "SO"},
	"S-1-5-32-550":   {`BUILTIN\Print Operators`, "PO"},
	"S-1-5-32-551":   {`BUILTIN\Backup Operators`, "BO"},
	"S-1-5-32-552":   {`BUILTIN\Replicator`, "RE"},
	"S-1-5-32-554":   {`BUILTIN\Pre-Windows 2000 Compatible Access`, "RU"},
	"S-1-5-32-555":   {`BUILTIN\Remote Desktop Users`, "RD"},
	"S-1-5-32-556":   {`BUILTIN\Network Configuration Operators`, "NO"},
	"S-1-15-2-1":     {`APPLICATION PACKAGE AUTHORITY\All Application Packages`, "AC"},
	"S-1-15-2-2":     {`APPLICATION PACKAGE AUTHORITY\All Restricted Application Packages`, ""},
	"S-1-16-4096":    {"Low Mandatory Level", "LW"},
	"S-1-16-8192":    {"Medium Mandatory Level", "ME"},
	"S-1-16-8448":    {"Medium Plus Mandatory Level", "MP"},
	"S-1-16-12288":   {"High Mandatory Level", "HI"},
	"S-1-16-16384":   {"System Mandatory Level", "SI"},
	trustedInstaller: {`NT SERVICE\TrustedInstaller`, ""},
}

// trustedInstaller owns the files of Windows itself.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// Name is the name of a well-known SID; empty: only the machine or domain of the guest knows it.
func Name(sid string) string { return wellKnown[sid].name }

func short(sid string) string {
	if s := wellKnown[sid].short; s != "" {
		return s
	}
	return sid
}
