module millrace.dev/e2e/cluster/gateway

go 1.24.0

require sigs.k8s.io/gateway-api v1.3.0
