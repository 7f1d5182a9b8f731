package bmc

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ipmibmc "github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/command/dcmi"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// dcmiAnswer is a DCMI answer as controllers send it, behind the completion code: group, watts
// now, least, most, mean, time, period in ms, state.
func dcmiAnswer(watts uint16, active bool) []byte {
	b := []byte{0xDC}
	for _, v := range []uint16{watts, 4000, 9000, 6500} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, 1_780_000_000)
	b = binary.LittleEndian.AppendUint32(b, 60_000)
	if active {
		return append(b, 0x40)
	}
	return append(b, 0)
}

// rmcp is a controller that speaks RMCP+ with suites 3 and 17 and answers DCMI.
func rmcp(t *testing.T, answer func() ([]byte, types.CompletionCode)) (port int) {
	t.Helper()
	b := ipmibmc.New(ipmibmc.DeviceInfo{DeviceID: 1, IPMIVersion: 0x20}, [16]byte{1}, mock.New())
	user, err := b.Users.Add(2, "admin")
	if err != nil {
		t.Fatal(err)
	}
	user.SetPassword([]byte("secret"))
	user.Enabled = true
	user.ChannelAccess[1] = ipmibmc.UserChannelAccess{MaxPrivilege: ipmibmc.PrivilegeLevelUser, Enabled: true}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	reg := handlers.NewRegistry()
	handlers.RegisterAllHandlers(reg)
	reg.RegisterFunc(types.CommandGetDCMIPowerReading, func(_ context.Context, _ *handlers.HandlerContext, req []byte) ([]byte, types.CompletionCode, error) {
		if len(req) < 2 || req[0] != 0xDC || req[1] != 1 {
			return nil, types.CodeInvalidCommand, nil
		}
		data, code := answer()
		return data, code, nil
	})
	s := server.NewServer(b, udp.Wrap(conn, udp.WithReadTimeout(50*time.Millisecond)), server.WithHandlerRegistry(reg))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); _ = s.Close(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).Port
}

func TestDCMI(t *testing.T) {
	t.Parallel()
	var state atomic.Int32 // 0: measures; 1: does not; 2: refuses
	port := rmcp(t, func() ([]byte, types.CompletionCode) {
		switch state.Load() {
		case 1:
			return dcmiAnswer(0, false), types.CodeOK
		case 2:
			return nil, types.CodeInvalidCommand
		}
		return dcmiAnswer(7250, true), types.CodeOK
	})
	target := Target{Node: "n1", Address: "https://127.0.0.1", CredentialsFile: credentialsFile(t, "admin\nsecret\n"), Method: MethodDCMI, IPMIPort: port, Interval: quick, Timeout: 2 * time.Second}
	a := start(t, target)
	rows := a.until("rows", some)
	if r := by(rows, "node"); r["power_mw"] != "7250000" || r["method"] != "dcmi" || r["vantage"] != "outofband" || r["report_ms"] != "" {
		t.Errorf("row: %v", r)
	}
	state.Store(1)
	a.untilState("n1", source.Lost, "the controller says that it does not measure now")
	state.Store(2)
	a.untilState("n1", source.Lost, "ask DCMI for power")
	state.Store(0)
	a.untilState("n1", source.Active, "")
}

// refusing is an address where nobody listens, and a port where somebody speaks IPMI.
func refusing(t *testing.T, port int) Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "https://" + l.Addr().String()
	_ = l.Close()
	return Target{Node: "n1", Address: address, CredentialsFile: credentialsFile(t, "reader\nelse\n"), IPMIPort: port, Interval: quick, Timeout: 2 * time.Second}
}

// A controller without Redfish is asked by IPMI where that has an account of its own.
func TestAutoFallsBack(t *testing.T) {
	t.Parallel()
	target := refusing(t, rmcp(t, func() ([]byte, types.CompletionCode) { return dcmiAnswer(7250, true), types.CodeOK }))
	target.IPMICredentialsFile = credentialsFile(t, "admin\nsecret\n")
	a := start(t, target)
	rows := a.until("rows", some)
	if r := by(rows, "node"); r["method"] != "dcmi" {
		t.Errorf("row: %v", r)
	}
	a.untilState("n1", source.Degraded, "no Redfish answers, only IPMI: of the controller's GPUs nothing is seen")
	target.IPMICredentialsFile = credentialsFile(t, "admin\nsesame\n")
	start(t, target).untilState("n1", source.Unavailable, "refuses the account in "+target.IPMICredentialsFile+": the user name or the password is not that of the controller's IPMI account")
}

// Anybody on the controllers' network can refuse a connection or answer with nothing: the account
// of Redfish does not go to IPMI for that, whatever certificate is wanted, and that is said.
func TestAutoGivesNothingAway(t *testing.T) {
	t.Parallel()
	heard, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	target := refusing(t, heard.LocalAddr().(*net.UDPAddr).Port)
	a := start(t, target)
	for range 3 {
		a.untilState("n1", source.Unavailable, "connection refused; IPMI is not asked without an account of its own: name it in ipmi_credentials_file, or take method dcmi")
		a.s.status = map[string]source.Status{}
		a.told = map[string]source.Status{}
	}
	a.once.Do(func() { _ = a.Close() })
	if err = heard.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := heard.ReadFrom(make([]byte, 64)); err == nil {
		t.Errorf("IPMI was asked: %d bytes", n)
	}
}

func TestDCMIWrongPassword(t *testing.T) {
	t.Parallel()
	port := rmcp(t, func() ([]byte, types.CompletionCode) { return dcmiAnswer(7250, true), types.CodeOK })
	a := start(t, Target{Node: "n1", Address: "https://127.0.0.1", CredentialsFile: credentialsFile(t, "admin\nsesame\n"), Method: MethodDCMI, IPMIPort: port, Interval: quick, Timeout: time.Second})
	a.untilState("n1", source.Unavailable, "bmc.cred: the user name or the password is not that of the controller's IPMI account, or the account may not use the network; it is tried again in 5m0s")
}

// An IPMI simulator of somebody else's: the session opens, with the suite that it has; it
// does not know DCMI, and that is said. A wrong password is told from it.
func TestSimulator(t *testing.T) {
	t.Parallel()
	sim, err := exec.LookPath("ipmi_sim")
	testenv.Need(t, "ipmi_sim", err)
	probe, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := probe.LocalAddr().(*net.UDPAddr).Port
	_ = probe.Close()
	dir := t.TempDir()
	auth := ""
	for _, level := range []string{"callback", "user", "operator", "admin"} {
		auth += "    allowed_auths_" + level + " none md2 md5 straight\n"
	}
	for name, text := range map[string]string{
		"lan.conf": fmt.Sprintf("name \"sim\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 %d\n    priv_limit admin\n%s    guid a123456789abcdefa123456789abcdef\n  endlan\n"+
			"  user 1 true \"\" \"test\" user 10 none md2 md5 straight\n  user 2 true \"admin\" \"secret\" admin 10 none md2 md5 straight\n", port, auth),
		"sim.emu": "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n",
	} {
		if err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), sim, "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "sim.emu"), "-n", "-s", filepath.Join(dir, "state"))
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	target := Target{Node: "n1", Address: "https://127.0.0.1", CredentialsFile: credentialsFile(t, "admin\nsecret\n"), Method: MethodDCMI, IPMIPort: port, Interval: quick, Timeout: time.Second}
	start(t, target).untilState("n1", source.Unavailable, "ask DCMI for power: cc: 0xd4")
	target.CredentialsFile = credentialsFile(t, "admin\nsesame\n")
	start(t, target).untilState("n1", source.Unavailable, "it is tried again in 5m0s")
}

// The host's own controller, where there is none.
func TestNoLocalController(t *testing.T) {
	t.Parallel()
	a := start(t, Target{Node: "n1", Address: Local, Interval: quick})
	a.until("a state", func([]map[string]string) bool {
		st := a.s.status["bmc/n1"]
		return st.State == source.Active || strings.Contains(st.Reason, "the host's own controller cannot be read: there is no /dev/ipmi0")
	})
}

// What the library makes of recorded and of broken answers.
func FuzzDCMI(f *testing.F) {
	f.Add(dcmiAnswer(7250, true))
	f.Add([]byte{0xDC})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r dcmi.GetDCMIPowerReadingResponse
		if err := r.Unpack(b); err == nil && (len(b) < 18 || b[0] != 0xDC) {
			t.Errorf("%x was taken", b)
		}
	})
}
