package supervisor

import (
	"errors"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	api "vmfr/api/session"
)

func TestIdentify(t *testing.T) {
	good := func() authenticationv1.TokenReviewStatus {
		return authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{api.TokenAudience},
			User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:holder", Extra: map[string]authenticationv1.ExtraValue{
				claimPod: {"front-1"}, claimPodUID: {"u"}, claimNode: {"node-1"},
			}},
		}
	}
	who, err := identify(good())
	if want := (Identity{"shop", "holder", "front-1", "u", "node-1"}); err != nil || who != want {
		t.Errorf("%+v, %v", who, err)
	}
	old := good() // API servers before 1.29 tell no node
	delete(old.User.Extra, claimNode)
	if who, err := identify(old); err != nil || who.Node != "" {
		t.Errorf("%+v, %v", who, err)
	}
	for name, change := range map[string]func(*authenticationv1.TokenReviewStatus){
		"not authenticated":    func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false },
		"no audience":          func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil },
		"another audience":     func(s *authenticationv1.TokenReviewStatus) { s.Audiences[0] = "api" },
		"a person":             func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" },
		"half a name":          func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:shop" },
		"an empty namespace":   func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount::holder" },
		"bound to no pod":      func(s *authenticationv1.TokenReviewStatus) { delete(s.User.Extra, claimPod) },
		"bound to no one pod":  func(s *authenticationv1.TokenReviewStatus) { s.User.Extra[claimPodUID] = []string{"u", "v"} },
		"bound to nothing yet": func(s *authenticationv1.TokenReviewStatus) { s.User.Extra = nil },
	} {
		s := good()
		change(&s)
		if who, err := identify(s); !errors.Is(err, errNotValid) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
}
