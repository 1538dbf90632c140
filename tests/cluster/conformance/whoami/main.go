// Plays CoreDNS for the conformance tests of UDPRoute: answers every question over UDP and TCP at port 53, as CoreDNS does with
// its plugin whoami, with who asked.
package main

import (
	"log"
	"net"
	"strconv"

	"github.com/miekg/dns"
)

func answer(w dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(question)
	reply.Authoritative = true
	host, port, err := net.SplitHostPort(w.RemoteAddr().String())
	if err != nil || len(question.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(reply)
		return
	}
	name := question.Question[0].Name
	if ip := net.ParseIP(host); ip.To4() != nil {
		reply.Extra = append(reply.Extra, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: ip})
	} else {
		reply.Extra = append(reply.Extra, &dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET}, AAAA: ip})
	}
	number, _ := strconv.ParseUint(port, 10, 16) // a port of a socket is one
	reply.Extra = append(reply.Extra, &dns.SRV{
		Hdr:    dns.RR_Header{Name: "_" + w.RemoteAddr().Network() + "." + name, Rrtype: dns.TypeSRV, Class: dns.ClassINET},
		Port:   uint16(number),
		Target: ".",
	})
	_ = w.WriteMsg(reply) // who asked and went away needs no answer
}

func main() {
	dns.HandleFunc(".", answer)
	ends := make(chan error)
	for _, network := range []string{"udp", "tcp"} {
		server := &dns.Server{Addr: ":53", Net: network}
		go func() { ends <- server.ListenAndServe() }()
	}
	log.Fatal(<-ends)
}
