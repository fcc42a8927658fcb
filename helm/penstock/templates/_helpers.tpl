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
{{- define "penstock.check" -}}
{{- with .Values.api.tcp }}
{{- if .enabled }}
{{- $given := and .tls.certificate .tls.key }}
{{- if not (or .tls.existingSecret $given .tls.generate) }}
{{- fail "api.tcp.enabled needs a certificate: api.tcp.tls.existingSecret, or certificate and key, or generate" }}
{{- end }}
{{- if not (or .clientCertificates (include "penstock.hasTokens" $)) }}
{{- fail "api.tcp.enabled needs to know who may: api.tcp.clientCertificates, or api.tcp.tokens" }}
{{- end }}
{{- if and .clientCertificates (not .tls.existingSecret) (not .tls.clientCA) }}
{{- fail "api.tcp.clientCertificates needs their authority: ca.crt in api.tcp.tls.existingSecret, or api.tcp.tls.clientCA" }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (or .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled) (has .Values.metrics.address (list "127.0.0.1" "::1")) }}
{{- fail "a PodMonitor or ServiceMonitor cannot reach agents on loopback: metrics.address 0.0.0.0 (or ::) is every address of the node, without a login" }}
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
