package main

import (
	ctrl "sigs.k8s.io/controller-runtime"

	"vmfr/controller/discovery"
	"vmfr/controller/plan"
	"vmfr/controller/restore"
	"vmfr/controller/velero"
)

// setup adds the controllers to the manager.
func (f *flags) setup(mgr ctrl.Manager, cfg plan.Config) error {
	t := f.timeouts
	err := discovery.Setup(mgr, discovery.Options{
		MaxConcurrentDiscoveries: f.discoveries, MaxConcurrentBackups: f.backups, BackupTimeout: t.backup,
		VeleroNamespaces: []string{cfg.Namespace},
	})
	if err != nil {
		return err
	}
	reader, err := velero.ReaderFor(mgr, velero.ReaderOptions{})
	if err != nil {
		return err
	}
	return restore.Setup(mgr, restore.Options{
		Plan: cfg, Contents: reader, MaxConcurrentRestores: f.restores, MaxConcurrentReconciles: f.restores,
		DiscoveryLimit: t.discovery, DisksLimit: t.disks, RestoreLimit: t.restore, MovementLimit: t.movement,
		HolderLimit: t.holder, ReportLimit: t.report, CancelLimit: t.cancel,
	})
}
