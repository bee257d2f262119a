// A file server of the standard library, as Go programs have it, with one host of its own. Arguments: root.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(os.Args[1])))
	mux.HandleFunc("secret.test/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "SECRET-HOST")
	})
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, mux))
}
