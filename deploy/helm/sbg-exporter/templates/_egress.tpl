{{- /* Port of a URL, http if it has no scheme. Not urlParse, which fails on what the exporter takes or explains. */}}
{{- define "sbg-exporter.port" -}}
{{- $address := regexReplaceAll "^[^/]*://" . "" | splitList "/" | first }}
{{- $port := regexFind ":[0-9]+$" $address | trimPrefix ":" }}
{{- default (ternary 443 80 (hasPrefix "https:" (lower .))) $port }}
{{- end }}

{{- /* Ports to open: those of the values, of the accounts' endpoints and proxies, and of proxies in the environment. */}}
{{- define "sbg-exporter.egressPorts" -}}
{{- $ports := list }}
{{- range .Values.networkPolicy.egressPorts }}
{{- $ports = append $ports (int .) }}
{{- end }}
{{- $urls := list }}
{{- if not .Values.existingConfigMap }}
{{- range .Values.accounts }}
{{- $urls = concat $urls (compact (list .apiEndpoint .proxy)) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if has (lower .name) (list "http_proxy" "https_proxy") }}
{{- $urls = concat $urls (compact (list .value)) }}
{{- end }}
{{- end }}
{{- range $urls }}
{{- $ports = append $ports (include "sbg-exporter.port" . | int) }}
{{- end }}
{{- uniq $ports | toJson }}
{{- end }}

{{- /* Where a platform or a proxy may be configured whose port the chart does not know. */}}
{{- define "sbg-exporter.unknownPorts" -}}
{{- $places := list }}
{{- range .Values.extraEnv }}
{{- if and .valueFrom (has (lower .name) (list "http_proxy" "https_proxy")) }}
{{- $places = append $places .name }}
{{- end }}
{{- end }}
{{- if .Values.envFrom }}
{{- $places = append $places "envFrom" }}
{{- end }}
{{- if .Values.existingConfigMap }}
{{- $places = append $places "existingConfigMap" }}
{{- end }}
{{- join " and " $places }}
{{- end }}
