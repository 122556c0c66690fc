{{- define "sbg-exporter.image" -}}
{{- $registry := (.Values.global).imageRegistry | default .Values.image.registry }}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* Secrets to pull images with. Charts differ in whether these are names or objects with a name: take both. */}}
{{- define "sbg-exporter.imagePullSecrets" -}}
{{- range concat ((.Values.global).imagePullSecrets | default list) (.Values.imagePullSecrets | default list) }}
- name: {{ ternary . (get (ternary dict . (kindIs "string" .)) "name") (kindIs "string" .) | quote }}
{{- end }}
{{- end }}

{{- /* A probe, with HTTPS if that is what the exporter serves: (list . probe). */}}
{{- define "sbg-exporter.probe" -}}
{{- $probe := deepCopy (index . 1) }}
{{- if and $probe.httpGet (include "sbg-exporter.tls" (index . 0)) }}
{{- $_ := set $probe "httpGet" (merge $probe.httpGet (dict "scheme" "HTTPS")) }}
{{- end }}
{{- toYaml $probe }}
{{- end }}

{{- /* Whether the exporter serves HTTPS; empty if not. */}}
{{- define "sbg-exporter.tls" -}}
{{- if and .Values.webConfig.secretName .Values.webConfig.tls }}true{{ end }}
{{- end }}
