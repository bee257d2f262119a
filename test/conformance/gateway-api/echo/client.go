package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const requestTimeout = 10 * time.Second

// runClient is `client URL [--method=M] [-H NAME:VALUE]… [--count=N]`. Each answer is a block of lines, the blocks
// apart by an empty line; a request that fails ends the program.
func runClient(args []string) error {
	var url string
	method, count := http.MethodGet, 1
	headers := http.Header{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch name {
		case "--method", "--count", "-H", "--header":
			if !joined {
				i++
				if i == len(args) {
					return fmt.Errorf("%s needs a value", name)
				}
				value = args[i]
			}
		default:
			url = args[i]
			continue
		}
		switch name {
		case "--method":
			method = value
		case "--count":
			var err error
			if count, err = strconv.Atoi(value); err != nil {
				return err
			}
		default:
			field, text, _ := strings.Cut(value, ":")
			headers.Add(field, strings.TrimSpace(text))
		}
	}
	if url == "" {
		return errors.New("client URL [--method=M] [-H NAME:VALUE] [--count=N]")
	}
	grpc := strings.HasPrefix(url, "grpc://")
	client := newClient(grpc)
	for i := range count {
		if i > 0 {
			fmt.Println()
		}
		if err := request(client, i, url, method, headers, grpc); err != nil {
			return err
		}
	}
	return nil
}

func newClient(grpc bool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the server's certificate is its own
		Protocols:       new(http.Protocols),
	}
	if grpc {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	return &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func request(c *http.Client, i int, url, method string, headers http.Header, grpc bool) error {
	var body io.Reader
	target := url
	if grpc {
		target = "http://" + strings.TrimPrefix(url, "grpc://")
		if strings.Count(strings.TrimSuffix(target, "/"), "/") == 2 {
			target = strings.TrimSuffix(target, "/") + "/proto.EchoTestService/Echo"
		}
		method, body = http.MethodPost, bytes.NewReader(grpcMessage("echo"))
	}
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		return err
	}
	r.Header = headers.Clone()
	r.Header.Set("X-Request-Id", strconv.Itoa(i))
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host")
	}
	if grpc {
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Te", "trailers")
	}
	response, err := c.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	received, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	text := string(received)
	if grpc {
		if status := grpcStatus(response); status != "0" {
			return fmt.Errorf("rpc failed: grpc-status %s, HTTP status %d", status, response.StatusCode)
		}
		if text, err = grpcText(received); err != nil {
			return err
		}
	}
	fmt.Printf("[%d] Url=%s\n[%d] StatusCode=%d\n", i, url, i, response.StatusCode)
	for name, values := range response.Header {
		for _, value := range values {
			fmt.Printf("[%d] ResponseHeader=%s:%s\n", i, name, value)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) != "" {
			fmt.Printf("[%d body] %s\n", i, line)
		}
	}
	return nil
}

func grpcStatus(response *http.Response) string {
	if status := response.Trailer.Get("Grpc-Status"); status != "" {
		return status
	}
	return response.Header.Get("Grpc-Status")
}

// grpcMessage is one uncompressed message whose field 1 is the text.
func grpcMessage(text string) []byte {
	field := append([]byte{0x0a}, binary.AppendUvarint(nil, uint64(len(text)))...)
	field = append(field, text...)
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(field)))
	return append(message, field...)
}

func grpcText(message []byte) (string, error) {
	if len(message) < 6 || message[5] != 0x0a {
		return "", errors.New("the answer is no message of ours")
	}
	length, size := binary.Uvarint(message[6:])
	if size <= 0 || int(length) > len(message)-6-size {
		return "", errors.New("the answer is cut short")
	}
	return string(message[6+size : 6+size+int(length)]), nil
}
