// Echo is the workload of the Gateway API conformance suite: `echo --port=8080 --grpc=7070 …` answers every request
// with what it received, `client URL …` sends requests and prints what came back. Both write the fields that the suite
// reads (utils/echo/parse.go of the suite); the image it names cannot be had everywhere, so this program stands in.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	var err error
	if filepath.Base(os.Args[0]) == "client" {
		err = runClient(os.Args[1:])
	} else {
		err = runServer(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
