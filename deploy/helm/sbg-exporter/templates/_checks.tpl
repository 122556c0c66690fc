{{- /* Fails on values that each are right, but not together. */}}
{{- define "sbg-exporter.checks" -}}
{{- if eq .Values.enabled false }}
{{- fail "enabled: false switches the chart off only in a parent chart that lists it with condition: sbg-exporter.enabled" }}
{{- end }}
{{- range .Values.accounts }}
{{- if contains "@" (.proxy | default "") }}
{{- fail (printf "accounts: the proxy of %q has credentials, which would be in a ConfigMap; set HTTPS_PROXY from a Secret in extraEnv instead" .name) }}
{{- end }}
{{- end }}
{{- range $key := include "sbg-exporter.selectorLabels" . | fromYaml | keys | sortAlpha }}
{{- if hasKey ($.Values.podLabels | default dict) $key }}
{{- fail (printf "podLabels: %s is set by the chart; use nameOverride and the name of the release" $key) }}
{{- end }}
{{- end }}
{{- if hasKey (.Values.podAnnotations | default dict) "checksum/config" }}
{{- fail "podAnnotations: checksum/config is set by the chart, so that a changed configuration restarts the pod" }}
{{- end }}
{{- $monitor := .Values.serviceMonitor }}
{{- if and $monitor.interval $monitor.scrapeTimeout }}
{{- $interval := include "sbg-exporter.milliseconds" $monitor.interval | int64 }}
{{- if gt (include "sbg-exporter.milliseconds" $monitor.scrapeTimeout | int64) $interval }}
{{- fail (printf "serviceMonitor.scrapeTimeout: %s is longer than serviceMonitor.interval, %s, which Prometheus rejects" $monitor.scrapeTimeout $monitor.interval) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sbg-exporter.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . }}
{{- mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) }}
{{- end }}
