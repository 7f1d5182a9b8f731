package nats

import (
	_ "embed" // cluster.conf
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

//go:embed cluster.conf
var clusterConf string

// clusterFile is what one server of a cluster is started with; it includes serverFile.
const clusterFile = "cluster.conf"

// routePort is where servers of a cluster listen for each other.
const routePort = "6222"

// Cluster is one server's part in a cluster. Server, Peers and the three files are needed.
type Cluster struct {
	// Server is its own name, other than those of the others.
	Server string
	// Name is the cluster's; default flopwatch.
	Name string
	// Peers are all servers, this one too: HOST, or HOST:PORT where routes are not on 6222.
	Peers []string
	// Listen is where it waits for the others; default 0.0.0.0:6222.
	Listen string
	// CAFile signs the servers, CertFile and KeyFile are this one's. Paths as the server sees them. Whoever has a
	// certificate of this authority is taken for a server: it is for these alone.
	CAFile, CertFile, KeyFile string
	// Domain is JetStream's, where sites are joined by leaf nodes; "": none.
	Domain string
}

var serverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// safe is what may stand between quotes in the server's language.
var safe = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]-]+$`)

// routes are the peers as URLs.
func (c Cluster) routes() ([]string, error) {
	var out []string
	for _, p := range c.Peers {
		host, port, err := net.SplitHostPort(p)
		if err != nil {
			host, port = p, routePort
		}
		if host == "" || port == "" || !safe.MatchString(p) {
			return nil, fmt.Errorf("peer %q: HOST or HOST:PORT", p)
		}
		out = append(out, "nats-route://"+net.JoinHostPort(strings.Trim(host, "[]"), port))
	}
	return out, nil
}

// check fills in the defaults and reports what is missing.
func (c *Cluster) check() error {
	if c.Name == "" {
		c.Name = "flopwatch"
	}
	if c.Listen == "" {
		c.Listen = "0.0.0.0:" + routePort
	}
	switch {
	case !serverName.MatchString(c.Server):
		return fmt.Errorf("server %q: a name of letters, digits, dots, _ and -, other than those of the others", c.Server)
	case !serverName.MatchString(c.Name):
		return fmt.Errorf("cluster %q: a name of letters, digits, dots, _ and -", c.Name)
	case len(c.Peers) < 3 || len(c.Peers)%2 == 0:
		return fmt.Errorf("%d peers: 3 or 5, this server among them: of an even number no more may be lost than of one less", len(c.Peers))
	case len(slices.Compact(slices.Sorted(slices.Values(c.Peers)))) != len(c.Peers):
		return errors.New("a peer is named twice")
	case c.CAFile == "" || c.CertFile == "" || c.KeyFile == "":
		return errors.New("servers of a cluster know each other by certificates: an authority of their own, a certificate and its key are needed")
	case c.Domain != "" && !serverName.MatchString(c.Domain):
		return fmt.Errorf("domain %q: a name of letters, digits, _ and -", c.Domain)
	}
	for _, s := range []string{c.Listen, c.CAFile, c.CertFile, c.KeyFile} {
		if !safe.MatchString(s) {
			return fmt.Errorf("%q: letters, digits and . _ : / - alone", s)
		}
	}
	return nil
}

// conf is the file.
func (c Cluster) conf() (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	routes, err := c.routes()
	if err != nil {
		return "", err
	}
	t, err := template.New(clusterFile).Parse(clusterConf)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, struct {
		Cluster
		Routes []string
	}{c, routes})
	return b.String(), err
}

// InitCluster makes the directory as Init does, and in it cluster.conf, which is written anew.
// Users are the same on all servers: users.d is copied, or each Add made on each.
func InitCluster(dir string, c Cluster) error {
	text, err := c.conf()
	if err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	return change(dir, func() error { return write(filepath.Join(dir, clusterFile), text) })
}
