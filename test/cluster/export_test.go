package cluster

// Running is running.
var Running = running
