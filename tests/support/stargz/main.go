// SPDX-License-Identifier: Apache-2.0

// The stargz snapshotter as a proxy plugin: the library that Debian packages, in the least program that serves it.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/pelletier/go-toml"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

func main() {
	// The options of upstream's own program, which stands in for this one where it is installed.
	address := flag.String("address", "", "socket to serve on")
	root := flag.String("root", "", "directory for all that is kept")
	file := flag.String("config", "", "configuration file")
	flag.Parse()

	tree, err := toml.LoadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	var config service.Config
	if err := tree.Unmarshal(&config); err != nil {
		log.Fatal(err)
	}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), *root, &config)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM, unix.SIGINT)
	go func() {
		<-ended
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	if err := snapshotter.Close(); err != nil {
		log.Fatal(err)
	}
}
