package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/test/cluster"
)

// What S3's clients need, beside S3URL.
const (
	Bucket    = "backups"
	AccessKey = "test"
	SecretKey = "testsecret"
	Region    = "us-east-1"
)

// S3Dir is the folder of the nodes that holds the bucket.
const S3Dir = shared + "/s3"

const s3Port = "7070"

// S3 installs the S3 gateway, or starts it again where it was stopped.
func (c Cluster) S3(ctx context.Context) error {
	image, err := c.loadPrograms(ctx, "s3", cluster.S3Gateway, "versitygw")
	if err != nil {
		return err
	}
	if err := c.apply(ctx, "s3.yaml", map[string]string{"Namespace": Namespace, "Image": image, "Port": s3Port, "Dir": S3Dir,
		"Bucket": Bucket, "AccessKey": AccessKey, "SecretKey": SecretKey}); err != nil {
		return err
	}
	return c.StartS3(ctx)
}

// S3URL is where the gateway is, for Pods and for clients outside the cluster. It stays the same
// while the gateway is stopped.
func (c Cluster) S3URL(ctx context.Context) (string, error) {
	k, err := c.client()
	if err != nil {
		return "", err
	}
	var s corev1.Service
	if err := k.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: "s3"}, &s); err != nil {
		return "", err
	}
	if s.Spec.ClusterIP == "" {
		return "", errors.New("the Service of the S3 gateway has no address")
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(s.Spec.ClusterIP, s3Port)}
	return u.String(), nil
}

// StopS3 ends the gateway: connections are refused until StartS3. Nothing is lost.
func (c Cluster) StopS3(ctx context.Context) error { return c.scaleS3(ctx, 0) }

// StartS3 starts the gateway and returns when it answers.
func (c Cluster) StartS3(ctx context.Context) error { return c.scaleS3(ctx, 1) }

func (c Cluster) scaleS3(ctx context.Context, replicas int) error {
	k, err := c.client()
	if err != nil {
		return err
	}
	d := deployment(Namespace, "s3")
	scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: int32(replicas)}}
	if err := k.SubResource("scale").Update(ctx, d, client.WithSubResourceBody(scale)); err != nil {
		return fmt.Errorf("the S3 gateway: %w", err)
	}
	return c.rolledOut(ctx, d)
}
