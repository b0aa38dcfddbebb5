package node

// DirEnv names the directory of the node whose cluster tests and kubectl use.
const DirEnv = "VMFR_NODE"
