package identity

// Kinds of parties.
const (
	Individual = "individual"
	Entity     = "entity"
)

// States of verification. Anything else counts as Unverified.
const (
	Verified   = "verified"
	Unverified = "unverified"
	Refused    = "refused"
)

// Payment is a means and source of payment.
type Payment struct {
	Means     string `json:"means"`
	Source    string `json:"source"`
	Reference string `json:"reference"`
}

// Access is one access to, or administration of, an account.
type Access struct {
	IP   string `json:"ip"`
	AtMs int64  `json:"at_ms"`
}

// Owner is a beneficial owner. A nil Share was not stated or not usable.
type Owner struct {
	Party string   `json:"party"`
	Share *float64 `json:"share"`
}

// Verification is the outcome of checking an identity.
type Verification struct {
	Status string  `json:"status"`
	Method *string `json:"method"` // documentary, non-documentary or nil
	AtMs   *int64  `json:"at_ms"`
	Note   string  `json:"note"`
}

// Party is a person or entity of the identification program, in clear. It must not
// leave this package's callers unsealed.
type Party struct {
	ID                  string       `json:"id"`
	Kind                string       `json:"kind"`
	Name                string       `json:"name"`
	USPerson            *bool        `json:"us_person"` // nil: status not known
	Country             string       `json:"country"`   // ISO 3166-1 alpha-2, of residence or formation
	HeadquartersCountry string       `json:"headquarters_country"`
	Addresses           []string     `json:"addresses"`
	Emails              []string     `json:"emails"`
	Phones              []string     `json:"phones"`
	Payment             []Payment    `json:"payment"`
	AccessIPs           []Access     `json:"access_ips"`
	BeneficialOwners    []Owner      `json:"beneficial_owners"`
	Parent              *string      `json:"parent"`
	Reseller            *string      `json:"reseller"`
	Accounts            []string     `json:"accounts"`
	Verification        Verification `json:"verification"`
}

// Clear is the part of a party that may be stored and shown unsealed.
type Clear struct {
	ID                  string   `json:"id"`
	Kind                string   `json:"kind"`
	USPerson            *bool    `json:"us_person"`
	Status              string   `json:"status"`
	Country             string   `json:"country"`
	HeadquartersCountry string   `json:"headquarters_country"`
	AccessCountries     []string `json:"access_countries"` // nil: not derived
	Owners              []Owner  `json:"owners"`
	Parent              string   `json:"parent"`
	Reseller            string   `json:"reseller"`
	Accounts            []string `json:"accounts"`
}

// Locate derives the country of a network address, "" where it is not known.
type Locate func(ip string) (country string)

// Clear returns the clear part. A nil locate leaves AccessCountries absent.
func (p *Party) Clear(locate Locate) Clear {
	c := Clear{
		ID: p.ID, Kind: p.Kind, USPerson: p.USPerson, Status: p.Verification.Status,
		Country: p.Country, HeadquartersCountry: p.HeadquartersCountry,
		Owners: append([]Owner(nil), p.BeneficialOwners...), Accounts: append([]string(nil), p.Accounts...),
	}
	if p.Parent != nil {
		c.Parent = *p.Parent
	}
	if p.Reseller != nil {
		c.Reseller = *p.Reseller
	}
	if locate != nil {
		c.AccessCountries = []string{}
		for _, a := range p.AccessIPs {
			if country := locate(a.IP); country != "" {
				c.AccessCountries = append(c.AccessCountries, country)
			}
		}
		c.AccessCountries = sortedUnique(c.AccessCountries)
	}
	return c
}
