# Keys, certificates and kubeconfigs of an instance, made by openssl; sourced by `up`.
#
#   in:  `state`, `address`, `node` of cluster.sh
#   out: `$state/pki/*.{crt,key}`, `$state/kubeconfig` (the admin's) and `$state/kubeconfigs/*`
#
# shellcheck shell=bash disable=SC2154 # the variables come from cluster.sh

# Longer than any cluster of this kind lives, short enough to be no treasure.
certificate_days=30

# certificate NAME SUBJECT [ALTERNATIVES]: signed by the CA of the instance, for client and server.
certificate() {
  local usage=clientAuth
  [[ -z "${3:-}" ]] || usage=clientAuth,serverAuth
  openssl req -x509 -config "$state/pki/openssl.cnf" -extensions leaf -CA "$state/pki/ca.crt" -CAkey "$state/pki/ca.key" \
    -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$certificate_days" -subj "$2" \
    -addext "extendedKeyUsage=$usage" ${3:+-addext "subjectAltName=$3"} \
    -keyout "$state/pki/$1.key" -out "$state/pki/$1.crt" 2>>"$state/logs/openssl.log"
}

# kubeconfig_of NAME FILE: with the certificate NAME inside, so that the file can be handed on alone.
kubeconfig_of() {
  cat >"$2" <<KUBECONFIG
apiVersion: v1
kind: Config
current-context: millrace-test
contexts: [{name: millrace-test, context: {cluster: millrace-test, user: $1}}]
clusters: [{name: millrace-test, cluster: {server: "https://$address:6443", certificate-authority-data: $(base64 -w0 "$state/pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$state/pki/$1.crt"), client-key-data: $(base64 -w0 "$state/pki/$1.key")}}]
KUBECONFIG
}

make_pki() {
  local component
  mkdir -p "$state/pki" "$state/kubeconfigs"
  cat >"$state/pki/openssl.cnf" <<'CONFIG'
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
CONFIG
  openssl req -x509 -config "$state/pki/openssl.cnf" -extensions ca -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -days "$certificate_days" -subj /CN=millrace-test-ca -keyout "$state/pki/ca.key" -out "$state/pki/ca.crt" 2>>"$state/logs/openssl.log"
  openssl ecparam -name prime256v1 -genkey -noout -out "$state/pki/service-account.key"
  certificate admin /O=system:masters/CN=admin
  certificate kube-apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$address,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate kube-controller-manager /CN=system:kube-controller-manager
  certificate kube-scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  certificate kubelet "/O=system:nodes/CN=system:node:$node" "IP:$address,DNS:$node"
  for component in kube-controller-manager kube-scheduler kube-proxy kubelet; do
    kubeconfig_of "$component" "$state/kubeconfigs/$component"
  done
  kubeconfig_of admin "$state/kubeconfig"
}
