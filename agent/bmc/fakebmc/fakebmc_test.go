package fakebmc

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Nothing but the root is told to strangers, and every vendor's tree has what its comment
// says.
func TestServer(t *testing.T) {
	t.Parallel()
	for vendor, node := range map[string]string{
		"supermicro": "/Chassis/1/EnvironmentMetrics", "dell": "/Chassis/System.Embedded.1/Power", "hpe": "/Chassis/1/Power",
		"ami": "/Chassis/Self/PowerSubsystem/PowerSupplies/PSU0/Metrics", "plain": "/Chassis/1/Power",
	} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			s, err := Start(Options{Vendor: vendor})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(s.CertificatePEM())
			web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
			defer web.CloseIdleConnections()
			get := func(path string, account bool) (int, string) {
				t.Helper()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+root+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if account {
					req.SetBasicAuth("admin", "secret")
				}
				resp, err := web.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp.StatusCode, string(b)
			}
			if code, _ := get("", false); code != http.StatusOK {
				t.Errorf("root: %d", code)
			}
			if code, _ := get("/Systems", false); code != http.StatusUnauthorized {
				t.Errorf("without an account: %d", code)
			}
			if code, text := get(node, true); code != http.StatusOK || !strings.Contains(text, "Watts") {
				t.Errorf("node: %d %s", code, text)
			}
			code, text := get("/TelemetryService/MetricReports/HGX_ProcessorGPMMetrics_0", true)
			if vendor == "plain" && code != http.StatusNotFound || vendor != "plain" && strings.Count(text, "TensorCoreActivityPercent") != 16 {
				t.Errorf("report: %d %.200s", code, text)
			}
		})
	}
	if _, err := Start(Options{Vendor: "acme"}); err == nil {
		t.Error("an unknown vendor was taken")
	}
}
