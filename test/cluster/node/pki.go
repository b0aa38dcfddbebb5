package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// identity is somebody whom the cluster's authority certifies, as a client, a server or both.
type identity struct {
	file      string // in the pki directory: FILE.crt, FILE.key
	name      string // the user's
	group     string // empty: none
	addresses []string
	names     []string // of hosts
	config    bool     // whether there is to be FILE.kubeconfig as well
}

// identities are those of a node's programs; the first one's are the control plane's, too.
func (p place) identities() []identity {
	all := []identity{
		{file: "kube-proxy", name: "system:kube-proxy", config: true},
		{file: "kubelet", name: "system:node:" + p.Name(), group: "system:nodes", addresses: []string{p.Address()}, names: []string{p.Name()}, config: true},
	}
	if !p.first() {
		return all
	}
	return append(all,
		identity{file: "kube-apiserver", name: "kube-apiserver", addresses: []string{p.Address(), serviceAPI, "127.0.0.1"},
			names: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"}},
		identity{file: "apiserver-kubelet-client", name: "apiserver-kubelet-client", group: "system:masters"},
		identity{file: "admin", name: "admin", group: "system:masters", config: true},
		identity{file: "kube-controller-manager", name: "system:kube-controller-manager", config: true},
		identity{file: "kube-scheduler", name: "system:kube-scheduler", config: true},
	)
}

// lifetime of certificates; the clock may differ by as much at the start.
const lifetime = 365 * 24 * time.Hour

// authority signs certificates.
type authority struct {
	dir  string // where all is written
	cert *x509.Certificate
	key  crypto.Signer
}

// writePKI writes a node's keys, certificates and kubeconfigs into dir. The first node begins the
// cluster's, which the others find in its directory.
func (p place) writePKI(dir, first string) error {
	find := readAuthority
	if p.first() {
		find = newAuthority
	}
	ca, err := find(first)
	if err != nil {
		return fmt.Errorf("the cluster's authority: %w", err)
	}
	if ca.dir = dir; !p.first() {
		if err := ca.writeCert("ca", ca.cert); err != nil {
			return err
		}
	}
	for _, who := range p.identities() {
		if err := ca.certify(who, p.control()); err != nil {
			return fmt.Errorf("%s: %w", who.file, err)
		}
	}
	return nil
}

// newAuthority makes a cluster's authority, and the key of its service accounts.
func newAuthority(dir string) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	ca := authority{dir: dir, key: key}
	if ca.cert, err = cert.NewSelfSignedCACert(cert.Config{CommonName: "vmfr-node"}, key); err != nil {
		return authority{}, err
	}
	accounts, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return authority{}, err
	}
	return ca, errors.Join(ca.write("ca", ca.cert, key), os.WriteFile(filepath.Join(dir, "accounts.key"), accounts, 0o600))
}

// readAuthority reads what newAuthority has written.
func readAuthority(dir string) (authority, error) {
	key, err := keyutil.PrivateKeyFromFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		return authority{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return authority{}, fmt.Errorf("its key is a %T", key)
	}
	certs, err := cert.CertsFromFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return authority{}, err
	}
	return authority{cert: certs[0], key: signer}, nil
}

func (a authority) certify(who identity, control place) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: who.name}, DNSNames: who.names,
		NotBefore: a.cert.NotBefore, NotAfter: time.Now().Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if who.group != "" {
		template.Subject.Organization = []string{who.group}
	}
	for _, ip := range who.addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := a.write(who.file, signed, key); err != nil || !who.config {
		return err
	}
	return a.writeKubeconfig(who.file, control.Address())
}

// write writes FILE.crt and FILE.key.
func (a authority) write(file string, c *x509.Certificate, key crypto.Signer) error {
	pem, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(a.dir, file+".key"), pem, 0o600), a.writeCert(file, c))
}

// writeCert writes FILE.crt.
func (a authority) writeCert(file string, c *x509.Certificate) error {
	certs, err := cert.EncodeCertificates(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, file+".crt"), certs, 0o644)
}

// writeKubeconfig writes FILE.kubeconfig, which needs no other file, for the API server at an address.
func (a authority) writeKubeconfig(file, address string) error {
	var b [3][]byte
	for i, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		var err error
		if b[i], err = os.ReadFile(filepath.Join(a.dir, name)); err != nil {
			return err
		}
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"node": {Server: fmt.Sprintf("https://%s:%d", address, apiPort), CertificateAuthorityData: b[0]}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{file: {ClientCertificateData: b[1], ClientKeyData: b[2]}},
		Contexts:       map[string]*clientcmdapi.Context{"node": {Cluster: "node", AuthInfo: file}},
		CurrentContext: "node",
	}, filepath.Join(a.dir, file+".kubeconfig"))
}
