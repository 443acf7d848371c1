{{/* Name of the chart's objects: the release's name, with the chart's name unless that is in it. */}}
{{- define "millrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- printf "%s-operator" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s-operator" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods; never changes, because a Deployment's selector cannot. */}}
{{- define "millrace.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* managed-by is Helm: what the operator makes carries `millrace-operator` there, and it touches nothing else. */}}
{{- define "millrace.labels" -}}
{{ include "millrace.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "millrace.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millrace.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "`serviceAccount.name` must name an account where `serviceAccount.create` is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image reference from (image, app version). */}}
{{- define "millrace.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The settings file, as the operator reads it. What is not set is left out, so that the operator's default holds. */}}
{{- define "millrace.settings" -}}
{{- $v := .Values -}}
prefix: {{ $v.prefix | quote }}
{{- with $v.namespaces }}
namespaces: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.clusterId }}
clusterId: {{ . | quote }}
{{- end }}
image:
  reference: {{ include "millrace.image" (list $v.dataplane.image .Chart.AppVersion) | quote }}
  pullPolicy: {{ $v.dataplane.image.pullPolicy }}
{{- with $v.dataplane.image.pullSecrets }}
  pullSecrets: {{- toYaml . | nindent 4 }}
{{- end }}
kafka:
  brokers: {{ $v.kafka.brokers | quote }}
  tls: {{ $v.kafka.tls }}
{{- with $v.kafka.saslMechanism }}
  saslMechanism: {{ . }}
{{- end }}
  replication: {{ $v.kafka.replication }}
  minInSyncReplicas: {{ $v.kafka.minInSyncReplicas }}
clickhouse:
  url: {{ $v.clickhouse.url | quote }}
{{- range $name := list "postgres" "redis" "grafana" }}
{{- with (index $v $name).url }}
{{ $name }}:
  url: {{ . | quote }}
{{- end }}
{{- end }}
{{- if or $v.topics.rawPartitions $v.topics.processedPartitions }}
topics:
{{- with $v.topics.rawPartitions }}
  rawPartitions: {{ . }}
{{- end }}
{{- with $v.topics.processedPartitions }}
  processedPartitions: {{ . }}
{{- end }}
{{- end }}
dataplane:
{{- range $role := list "ingest" "worker" "gateway" }}
{{- with index $v.dataplane $role }}
  {{ $role }}: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
  workerVolume:
    size: {{ $v.dataplane.workerVolume.size | quote }}
{{- with $v.dataplane.workerVolume.storageClassName }}
    storageClassName: {{ . | quote }}
{{- end }}
{{- if or $v.expose.ingress $v.expose.httpRoute }}
expose:
{{- with $v.expose.ingress }}
  ingress: {{- toYaml . | nindent 4 }}
{{- end }}
{{- with $v.expose.httpRoute }}
  httpRoute: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
concurrency: {{ $v.concurrency }}
{{- end -}}

{{/* Sources of the projected volume of credentials: one folder per back end and account. */}}
{{- define "millrace.credentialSources" -}}
{{- range $backend := list "clickhouse" "grafana" "kafka" "postgres" "redis" }}
{{- range $account, $secret := (index $.Values $backend).credentials }}
{{- with $secret.existingSecret }}
- secret:
    name: {{ . }}
    items:
      - {key: {{ $secret.usernameKey | quote }}, path: {{ printf "%s/%s/username" $backend $account }}}
      - {key: {{ $secret.passwordKey | quote }}, path: {{ printf "%s/%s/password" $backend $account }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
