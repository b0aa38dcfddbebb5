package supervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"

	"vmfr/agent/incluster"
	api "vmfr/api/session"
)

// Identity is the pod that a token belongs to.
type Identity struct {
	Namespace, ServiceAccount string
	Pod, PodUID, Node         string
}

// account tells whose parts a holder may take over.
func (i Identity) account() string { return i.Namespace + "/" + i.ServiceAccount }

// Reviewer tells whose token it is. errNotValid is wrapped where it is nobody's; other errors are
// of the API server.
type Reviewer interface {
	Review(ctx context.Context, token string) (Identity, error)
}

var errNotValid = errors.New("the token is not valid for this agent")

// tokenReview asks the API server.
type tokenReview struct{ client *rest.RESTClient }

// NewReviewer returns the reviewer of a pod whose service account may create TokenReviews. root is
// the folder that is looked at as the root directory.
func NewReviewer(root string) (Reviewer, error) {
	c, _, err := incluster.Client(root, authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return tokenReview{c}, nil
}

func (r tokenReview) Review(ctx context.Context, token string) (Identity, error) {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{api.TokenAudience}}}
	if err := r.client.Post().Resource("tokenreviews").Body(review).Do(ctx).Into(review); err != nil {
		return Identity{}, fmt.Errorf("TokenReview: %w", err)
	}
	return identify(review.Status)
}

// Claims that bound tokens have (KEP-1205, KEP-4193).
const (
	claimPod    = "authentication.kubernetes.io/pod-name"
	claimPodUID = "authentication.kubernetes.io/pod-uid"
	claimNode   = "authentication.kubernetes.io/node-name"
)

// identify reads the answer of the API server. A token that is bound to no pod is refused: it
// would outlive every holder.
func identify(s authenticationv1.TokenReviewStatus) (Identity, error) {
	if !s.Authenticated {
		return Identity{}, fmt.Errorf("%w: the API server says: %.200q", errNotValid, s.Error)
	}
	// Without the audience in the answer, the authenticator did not look at it.
	if len(s.Audiences) != 1 || s.Audiences[0] != api.TokenAudience {
		return Identity{}, fmt.Errorf("%w: its audience is not %s", errNotValid, api.TokenAudience)
	}
	one := func(claim string) string {
		if v := s.User.Extra[claim]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	i := Identity{Pod: one(claimPod), PodUID: one(claimPodUID), Node: one(claimNode)}
	name, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	if ok {
		i.Namespace, i.ServiceAccount, ok = strings.Cut(name, ":")
	}
	if !ok || i.Namespace == "" || i.ServiceAccount == "" || i.Pod == "" || i.PodUID == "" {
		return Identity{}, fmt.Errorf("%w: it is of %.200q and bound to no pod", errNotValid, s.User.Username)
	}
	return i, nil
}
