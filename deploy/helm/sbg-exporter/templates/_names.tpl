{{- /*
The name of a Service must begin with a letter and may contain no dot; a release's name need not and may. At most 52
characters, because a StatefulSet adds a hash to its name in a label of the pod.
*/}}
{{- define "sbg-exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $full = default $full .Values.fullnameOverride }}
{{- $full = regexReplaceAll "[^-a-z0-9]+" (lower $full) "-" }}
{{- if not (regexMatch "^[a-z]" $full) }}
{{- $full = printf "sbg-exporter-%s" $full }}
{{- end }}
{{- $full | trunc 52 | trimAll "-" }}
{{- end }}

{{- define "sbg-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "sbg-exporter.labels" -}}
{{ include "sbg-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: exporter
app.kubernetes.io/part-of: sbg-exporter
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Labels of an object that has labels of its own in the values, which replace the chart's: (list . labels). */}}
{{- define "sbg-exporter.labelsAnd" -}}
{{- $own := index . 1 | default dict }}
{{- toYaml (merge (deepCopy $own) (include "sbg-exporter.labels" (index . 0) | fromYaml)) }}
{{- end }}

{{- define "sbg-exporter.serviceAccountName" -}}
{{- default (ternary (include "sbg-exporter.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "sbg-exporter.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* Content of the configuration file. */}}
{{- define "sbg-exporter.config" -}}
{{- $accounts := list }}
{{- $names := list }}
{{- range .Values.accounts }}
{{- if has .name $names }}
{{- fail (printf "accounts: the name %q is used twice; give each account a different name" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- $file := printf "/run/secrets/%s/%s" .tokenSecret.name .tokenSecret.key }}
{{- $account := dict "name" .name "api_endpoint" .apiEndpoint "auth_token_file" $file }}
{{- range $key, $value := dict "division" .division "ca_file" .caFile "proxy" .proxy "allow_plain_http" .allowPlainHttp }}
{{- if $value }}
{{- $account = set $account $key $value }}
{{- end }}
{{- end }}
{{- $accounts = append $accounts $account }}
{{- end }}
{{- $settings := deepCopy (default dict .Values.settings) }}
{{- if hasKey $settings "job_series" }}
{{- $settings = set $settings "job_series" (int $settings.job_series) }}
{{- end }}
{{- with .Values.webConfig }}
{{- if .secretName }}
{{- $settings = set $settings "web_config_file" (printf "/run/web-config/%s" .key) }}
{{- end }}
{{- end }}
{{- toToml (merge (dict "state_file" "/var/lib/sbg-exporter/state.db" "accounts" $accounts) $settings) }}
{{- end }}

{{- /* Whether the exporter serves HTTPS; empty if not. */}}
{{- define "sbg-exporter.tls" -}}
{{- if and .Values.webConfig.secretName .Values.webConfig.tls }}true{{ end }}
{{- end }}
