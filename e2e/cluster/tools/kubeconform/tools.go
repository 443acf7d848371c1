//go:build tools

// Package tools names the program that `e2e/cluster/install` builds, so that `go mod tidy` keeps what it needs.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
