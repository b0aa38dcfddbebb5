package plan

import corev1 "k8s.io/api/core/v1"

// Namespaces are the namespaces to make, the session's first; they need no Material, so they can be
// made before it.
func Namespaces(in Input) []*corev1.Namespace { return nil }

// JudgeNamespace tells why holders cannot run in an existing namespace, as a text for a
// condition; empty: nothing speaks against it. A namespace without a level is the cluster's
// default's to judge.
func JudgeNamespace(ns *corev1.Namespace) string { return "" }
