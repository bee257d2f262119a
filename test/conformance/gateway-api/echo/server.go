package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"
)

// runServer listens on every port that was named: --port for HTTP/1.1 and h2c, --grpc, --tcp; --tls names a --port
// that speaks TLS. --crt and --key are taken if they can be read; otherwise a certificate is made.
func runServer(args []string) error {
	var ports, grpcPorts, tcpPorts []string
	tlsPorts := map[string]bool{}
	var crt, key string
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch name {
		case "port":
			ports = append(ports, value)
		case "grpc":
			grpcPorts = append(grpcPorts, value)
		case "tcp":
			tcpPorts = append(tcpPorts, value)
		case "tls":
			tlsPorts[value] = true
		case "crt":
			crt = value
		case "key":
			key = value
		}
	}
	// Some of the suite's pods are clients only and name none.
	if len(ports)+len(grpcPorts)+len(tcpPorts) == 0 {
		ports = []string{"8080"}
	}
	failed := make(chan error)
	for _, port := range ports {
		server := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: 10 * time.Second}
		if tlsPorts[port] {
			certificate, err := loadCertificate(crt, key)
			if err != nil {
				return err
			}
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		}
		go func() { failed <- serveHTTP(server, port, tlsPorts[port]) }()
	}
	for _, port := range grpcPorts {
		server := &http.Server{Handler: http.HandlerFunc(echoGRPC), ReadHeaderTimeout: 10 * time.Second}
		go func() { failed <- serveHTTP(server, port, false) }()
	}
	for _, port := range tcpPorts {
		go func() { failed <- serveTCP(port) }()
	}
	return <-failed
}

func serveHTTP(server *http.Server, port string, secure bool) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	if secure {
		return server.ServeTLS(listener, "", "")
	}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server.Serve(listener)
}

// fields are the lines the suite looks for.
func fields(r *http.Request) string {
	var text strings.Builder
	line := func(name, value string) { fmt.Fprintf(&text, "%s=%s\n", name, value) }
	hostname, _ := os.Hostname()
	_, port, _ := net.SplitHostPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	line("ServicePort", port)
	line("Host", r.Host)
	line("Method", r.Method)
	line("URL", r.URL.RequestURI())
	line("Proto", r.Proto)
	line("IP", ip)
	if r.TLS != nil {
		line("Alpn", r.TLS.NegotiatedProtocol)
		line("ServerName", r.TLS.ServerName)
	}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, value := range r.Header[name] {
			line("RequestHeader", name+":"+value)
		}
	}
	line("Hostname", hostname)
	return text.String()
}

func echo(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, fields(r))
}

// echoGRPC answers any unary call with one message whose first field is the text.
func echoGRPC(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(grpcMessage(fields(r)))
	w.Header().Set("Grpc-Status", "0")
}

func serveTCP(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			hostname, _ := os.Hostname()
			fmt.Fprintf(conn, "Hostname=%s\n", hostname)
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				fmt.Fprintf(conn, "Echo=%s\n", lines.Text())
			}
		}()
	}
}

func loadCertificate(crt, key string) (tls.Certificate, error) {
	if loaded, err := tls.LoadX509KeyPair(crt, key); err == nil {
		return loaded, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "echo"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}
