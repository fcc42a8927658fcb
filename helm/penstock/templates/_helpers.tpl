{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "penstock.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "penstock.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "penstock.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* host:port, an IPv6 address in brackets */}}
{{- define "penstock.listen" -}}
{{- if contains ":" .address }}[{{ .address }}]:{{ .port }}{{ else }}{{ .address }}:{{ .port }}{{ end }}
{{- end }}

{{/* Which secrets the API over TCP takes; and whether it may be like that at all. */}}
{{- define "penstock.tlsSecret" -}}
{{- default (printf "%s-tls" (include "penstock.fullname" .)) .Values.api.tcp.tls.existingSecret }}
{{- end }}
{{- define "penstock.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "penstock.fullname" .)) .Values.api.tcp.tokens.existingSecret }}
{{- end }}
{{- define "penstock.hasTokens" -}}
{{- with .Values.api.tcp.tokens }}{{ if or .existingSecret .entries .generate }}yes{{ end }}{{ end }}
{{- end }}

{{/* Bytes of a quantity such as 1Gi, 1.5Gi or 1073741824, as the schema has them. */}}
{{- define "penstock.bytes" -}}
{{- if not (kindIs "string" .) }}{{ int64 . }}
{{- else }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $number := regexFind "^[0-9.]+" . }}
{{- $whole := splitList "." $number | first }}
{{- /* A leading 1, taken away again: 050 would be read as octal. */ -}}
{{- $part := printf "1%.3s" (printf "%s000" (trimPrefix $whole $number | trimPrefix ".")) }}
{{- div (mul (add (mul (int64 $whole) 1000) (sub (int64 $part) 1000)) (get $units (trimPrefix $number .))) 1000 }}
{{- end }}
{{- end }}

{{/* What the schema cannot say: values that contradict each other, or what Kubernetes or the agent would refuse later, on every node. */}}
{{- define "penstock.check" -}}
{{- $values := .Values }}
{{- $loopback := list "127.0.0.1" "::1" }}
{{- with .Values.api.tcp }}
{{- if .enabled }}
{{- if and .tls.existingSecret (or .tls.certificate .tls.key .tls.clientCA .tls.generate) }}
{{- fail "api.tcp.tls.existingSecret has all there is: api.tcp.tls.certificate, key, clientCA (its ca.crt) and generate go without it" }}
{{- end }}
{{- if ne (empty .tls.certificate) (empty .tls.key) }}
{{- fail "api.tcp.enabled needs a certificate and its key: api.tcp.tls.certificate and api.tcp.tls.key, not one of them" }}
{{- end }}
{{- if and .tls.generate .tls.certificate }}
{{- fail "api.tcp.tls.generate makes what api.tcp.tls.certificate gives: one of them" }}
{{- end }}
{{- if not (or .tls.existingSecret .tls.certificate .tls.generate) }}
{{- fail "api.tcp.enabled needs a certificate: api.tcp.tls.existingSecret, or certificate and key, or generate" }}
{{- end }}
{{- if and (or .tls.names .tls.addresses) (not .tls.generate) }}
{{- fail "api.tcp.tls.names and api.tcp.tls.addresses are for api.tcp.tls.generate: a given certificate has its own" }}
{{- end }}
{{- if and .tokens.existingSecret (or .tokens.entries .tokens.generate) }}
{{- fail "api.tcp.tokens.existingSecret has all tokens: api.tcp.tokens.entries and generate go without it" }}
{{- end }}
{{- if not (or .clientCertificates (include "penstock.hasTokens" $)) }}
{{- fail "api.tcp.enabled needs to know who may: api.tcp.clientCertificates, or api.tcp.tokens" }}
{{- end }}
{{- if and .clientCertificates (not .tls.existingSecret) (not .tls.clientCA) }}
{{- fail "api.tcp.clientCertificates needs their authority: ca.crt in api.tcp.tls.existingSecret, or api.tcp.tls.clientCA" }}
{{- end }}
{{- if and .tls.clientCA (not .clientCertificates) }}
{{- fail "api.tcp.tls.clientCA is read with api.tcp.clientCertificates alone" }}
{{- end }}
{{- if eq (int .port) (int $values.metrics.port) }}
{{- fail (printf "api.tcp.port and metrics.port are both %d" (int .port)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.monitoring }}
{{- if and (or .podMonitor.enabled .serviceMonitor.enabled) (has $values.metrics.address $loopback) }}
{{- fail "a PodMonitor or ServiceMonitor cannot reach agents on loopback: metrics.address 0.0.0.0 (or ::) is every address of the node, without a login" }}
{{- end }}
{{- if and .podMonitor.enabled .serviceMonitor.enabled }}
{{- fail "monitoring.podMonitor and monitoring.serviceMonitor: either, or every agent is scraped twice and every alert comes twice" }}
{{- end }}
{{- if .dashboard.json }}
{{- if not (hasKey (fromJson .dashboard.json) "panels") }}
{{- fail "monitoring.dashboard.json is not the JSON of a dashboard: it has no panels" }}
{{- end }}
{{- end }}
{{- end }}
{{- range $value := list "commonLabels" "podLabels" }}
{{- range $label, $_ := get $values $value | default dict }}
{{- if or (has $label (list "helm.sh/chart" "app.kubernetes.io/managed-by" "app.kubernetes.io/version")) (hasKey (include "penstock.selector" $ | fromYaml) $label) }}
{{- fail (printf "%s: %s is the chart's own" $value $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $_ := .Values.podAnnotations }}
{{- if regexMatch "^(checksum/config$|kubectl.kubernetes.io/default-container$|container.apparmor.security.beta.kubernetes.io/)" $key }}
{{- fail (printf "podAnnotations: %s is the chart's own" $key) }}
{{- end }}
{{- end }}
{{- if not (contains "penstock" (base .Values.state.hostPath)) }}
{{- fail (printf "state.hostPath: an uninstall empties %s, so its last part has to say penstock" .Values.state.hostPath) }}
{{- end }}
{{- if and .Values.priorityQuota (not .Values.priorityClassName) }}
{{- fail "priorityQuota is for the pods of priorityClassName, which is empty" }}
{{- end }}
{{- $datapath := .Values.config.datapath | default dict }}
{{- if and (eq (get $datapath "unclaimed") "deny") (not (get $datapath "workloadInterfaces")) }}
{{- fail "config.datapath.unclaimed: deny is for the interfaces that config.datapath.workloadInterfaces names, and it names none" }}
{{- end }}
{{- with get $datapath "markMask" }}
{{- $bits := list }}{{ $rest := int64 . }}
{{- range until 32 }}
{{- if mod $rest 2 }}{{ $bits = append $bits . }}{{ end }}
{{- $rest = div $rest 2 }}
{{- end }}
{{- if lt (len $bits) 2 }}
{{- fail (printf "config.datapath.markMask: %v has fewer than the 2 bits that are needed" .) }}
{{- end }}
{{- end }}
{{- $requests := .Values.resources.requests | default dict }}
{{- with .Values.resources.limits }}
{{- if .memory }}
{{- $limit := include "penstock.bytes" .memory | int64 }}
{{- $connections := get $datapath "connectionsMax" | default 524288 | int64 }}
{{- $needed := add 128 (div (mul $connections 456) 1048576) }}
{{- if lt $limit (mul $needed 1048576 | int64) }}
{{- fail (printf "resources.limits.memory: %v is less than %dMi, which the kernel maps of config.datapath.connectionsMax: %d and the agent take" .memory $needed $connections) }}
{{- end }}
{{- if $requests.memory }}
{{- if gt (include "penstock.bytes" $requests.memory | int64) $limit }}
{{- fail (printf "resources.requests.memory: %v is more than resources.limits.memory: %v" $requests.memory .memory) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The agent's configuration: what the chart's values say, and .Values.config beside it. */}}
{{- define "penstock.config" -}}
{{- $managed := dict
  "metrics" (dict "listen" (include "penstock.listen" .Values.metrics))
  "datapath" (dict "adoptListeners" .Values.adoptListeners) }}
{{- with .Values.api.tcp }}
{{- if and .enabled (not $.Values.uninstall.enabled) }}
{{- $tls := dict "certificate" "/run/secrets/penstock-tls/tls.crt" "key" "/run/secrets/penstock-tls/tls.key" }}
{{- if .clientCertificates }}
{{- $_ := set $tls "clientCA" "/run/secrets/penstock-tls/ca.crt" }}
{{- end }}
{{- $tcp := dict "listen" (include "penstock.listen" .) "tls" $tls }}
{{- if include "penstock.hasTokens" $ }}
{{- $_ := set $tcp "tokenFile" "/run/secrets/penstock-tokens/tokens" }}
{{- end }}
{{- $_ := set $managed "api" (dict "tcp" $tcp) }}
{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $managed) }}
{{- end }}

{{/* The agent's security context; the uninstaller's is the same. */}}
{{- define "penstock.security" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
  add:
    - NET_ADMIN # attach programs to interfaces; rules, routes, nftables; IP_TRANSPARENT
    - NET_RAW # frames of the engine's trial, and refusals that are answered
    - BPF # load programs, make maps
    - PERFMON # programs that read kernel structures: verdicts, tracepoints
    {{- if .Values.adoptListeners }}
    - SYS_PTRACE # pidfd_getfd: a proxy's listener, to set IP_TRANSPARENT on it
    - DAC_READ_SEARCH # /proc/PID/fd of other users: which process holds the listener
    {{- end }}
    {{- if .Values.capabilities.sysResource }}
    - SYS_RESOURCE # before Linux 5.11 maps count against RLIMIT_MEMLOCK
    {{- end }}
seccompProfile:
  type: {{ .Values.seccompProfile }}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
appArmorProfile:
  type: {{ .Values.appArmorProfile }}
{{- end }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "penstock.mounts" -}}
- {name: config, mountPath: /etc/penstock, readOnly: true}
- {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
- {name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true, mountPropagation: HostToContainer}
- {name: state, mountPath: /var/lib/penstock}
- {name: run, mountPath: /run/penstock}
{{- end }}
