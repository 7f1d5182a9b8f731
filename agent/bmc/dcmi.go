package bmc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

// errRefused says that an IPMI session failed where the two sides prove to each other that
// they know the password.
var errRefused = errors.New("the user name or the password is not that of the controller's IPMI account, or the account may not use the network")

// dcmiWatts asks for the power of the node by IPMI. A session lasts for one question: six
// packets and the answer, which is what a controller forgets easiest.
func dcmiWatts(ctx context.Context, t Target) (watts float64, err error) {
	c, err := dcmiClient(t)
	if err != nil {
		return 0, err
	}
	c.WithTimeout(t.Timeout).WithRetry(1)
	if err = c.Connect(ctx); err != nil {
		if s := strings.ToUpper(err.Error()); strings.Contains(s, "RAKP") && !strings.Contains(s, "TIMEOUT") {
			return 0, errRefused // of what the library says the rest is protocol
		}
		return 0, fmt.Errorf("open IPMI session: %w", err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the controller forgets it within a minute
	r, err := c.GetDCMIPowerReading(ctx)
	switch {
	case err != nil:
		return 0, fmt.Errorf("ask DCMI for power: %w", err)
	case !r.PowerMeasurementActive:
		return 0, errors.New("ask DCMI for power: the controller says that it does not measure now")
	case r.CurrentPower == 0:
		return 0, errors.New("ask DCMI for power: the controller says 0 W, which a host that runs does not draw")
	}
	return float64(r.CurrentPower), nil
}

func dcmiClient(t Target) (*client.Client, error) {
	if t.Address == Local {
		if _, err := os.Stat("/dev/ipmi0"); errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("there is no /dev/ipmi0: load ipmi_si and ipmi_devintf, or name the controller's address")
		}
		return client.NewOpenClient()
	}
	account, err := t.ipmiAccount()
	if err != nil {
		return nil, err
	}
	c, err := client.NewClient(t.host(), t.IPMIPort, account.user, account.password)
	if err != nil {
		return nil, errors.New("the user name is too long for IPMI, which takes 16 bytes")
	}
	// User is the least that may ask for power. Of the suites only those that authenticate
	// and encrypt: HMAC-SHA256 first, then SHA1; never 0, which knows no password.
	return c.WithMaxPrivilegeLevel(types.PrivilegeLevelUser).WithCipherSuiteID(types.CipherSuiteID17, types.CipherSuiteID3), nil
}

// oneLine makes a library's words fit for a reason.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	return s[:min(len(s), 200)]
}
