{{- /* Fails on values that each are right, but not together. */}}
{{- define "sbg-exporter.checks" -}}
{{- if eq .Values.enabled false }}
{{- fail "enabled: false switches the chart off only in a parent chart that lists it with condition: sbg-exporter.enabled" }}
{{- end }}
{{- $platforms := .Files.Get "files/platforms.yaml" | fromYaml }}
{{- range $account := .Values.accounts }}
{{- $endpoint := regexReplaceAll "/*$" (trim .apiEndpoint) "" }}
{{- $host := regexReplaceAll "^(?i)https?://([^/?#:]*).*$" $endpoint "${1}" | lower | trimSuffix "." }}
{{- $path := regexReplaceAll "^(?i)https?://[^/]*" $endpoint "" }}
{{- if has $host $platforms.apis }}
{{- if not (has $path (list "" "/v2")) }}
{{- fail (printf "accounts: the apiEndpoint of %q is more than the API's base URL; should it be https://%s/v2?" .name $host) }}
{{- end }}
{{- else }}
{{- range $platforms.web }}
{{- if or (eq $host .host) (and .subdomains (hasSuffix (printf ".%s" .host) $host)) }}
{{- fail (printf "accounts: the apiEndpoint of %q is a web address of the platform, not its API; should it be https://%s/v2?" $account.name .api) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .proxy }}
{{- if and (contains "://" .) (not (regexMatch "^(?i)https?://" .)) }}
{{- fail (printf "accounts: the proxy of %q must be http or https, such as http://proxy.example.org:3128" $account.name) }}
{{- end }}
{{- end }}
{{- if contains "@" (.proxy | default "") }}
{{- fail (printf "accounts: the proxy of %q has credentials, which would be in a ConfigMap; set HTTPS_PROXY from a Secret in extraEnv instead" .name) }}
{{- end }}
{{- if not (or .tokenSecret $.Values.existingSecret) }}
{{- fail (printf "accounts: %q has no tokenSecret; set it, or existingSecret" .name) }}
{{- end }}
{{- if and (hasPrefix "http://" .apiEndpoint) (not .allowPlainHttp) (not (regexMatch "^http://(localhost|127[.][0-9.]+|[[]::1])(:|/|$)" .apiEndpoint)) }}
{{- fail (printf "accounts: %q has an http:// endpoint, which would get the token unencrypted; use https://, or set the account's allowPlainHttp" .name) }}
{{- end }}
{{- if not (or .tokenSecret (regexMatch "^[-._a-zA-Z0-9]+$" .name)) }}
{{- fail (printf "accounts: %q cannot be the key of a Secret; set the account's tokenSecret" .name) }}
{{- end }}
{{- end }}
{{- range $value := list "podLabels" "commonLabels" }}
{{- range $key := include "sbg-exporter.selectorLabels" $ | fromYaml | keys | sortAlpha }}
{{- if hasKey (get $.Values $value | default dict) $key }}
{{- fail (printf "%s: %s is set by the chart; use nameOverride and the name of the release" $value $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey (.Values.podAnnotations | default dict) "checksum/config" }}
{{- fail "podAnnotations: checksum/config is set by the chart, so that a changed configuration restarts the pod" }}
{{- end }}
{{- range .Values.extraArgs }}
{{- if regexMatch "^--(config|listen|state-file|web-config-file)(=|$)" . }}
{{- fail (printf "extraArgs: %s is set by the chart" (splitList "=" . | first)) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if regexMatch "^SBG_EXPORTER_(CONFIG|LISTEN|STATE_FILE|WEB_CONFIG_FILE)$" .name }}
{{- fail (printf "extraEnv: %s is set by the chart" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.existingConfigMap .Values.settings }}
{{- fail "settings: existingConfigMap has the whole configuration; put them into its config.toml" }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if regexMatch "^(config|state|tmp|web-config|tokens-[0-9]+)$" .name }}
{{- fail (printf "extraVolumes: the chart has a volume %q of its own; give this one another name" .name) }}
{{- end }}
{{- end }}
{{- range concat (.Values.initContainers | default list) (.Values.extraContainers | default list) }}
{{- if eq .name "sbg-exporter" }}
{{- fail "extraContainers, initContainers: the exporter's container is called sbg-exporter; give this one another name" }}
{{- end }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- if and (hasKey . "minAvailable") (hasKey . "maxUnavailable") }}
{{- fail "podDisruptionBudget: set minAvailable or maxUnavailable, not both" }}
{{- end }}
{{- end }}
{{- if and .Values.service.nodePort (eq .Values.service.type "ClusterIP") }}
{{- fail "service.nodePort: set service.type to NodePort or LoadBalancer" }}
{{- end }}
{{- if and .Values.service.loadBalancerSourceRanges (ne .Values.service.type "LoadBalancer") }}
{{- fail "service.loadBalancerSourceRanges: set service.type to LoadBalancer" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "podMonitor: serviceMonitor is enabled too, and both would scrape the same pod; enable one of them" }}
{{- end }}
{{- range $name := list "serviceMonitor" "podMonitor" }}
{{- $monitor := get $.Values $name }}
{{- if and $monitor.interval $monitor.scrapeTimeout }}
{{- $interval := include "sbg-exporter.milliseconds" $monitor.interval | int64 }}
{{- if gt (include "sbg-exporter.milliseconds" $monitor.scrapeTimeout | int64) $interval }}
{{- fail (printf "%s.scrapeTimeout: %s is longer than %s.interval, %s, which Prometheus rejects" $name $monitor.scrapeTimeout $name $monitor.interval) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts: list at least one host, for example [{host: jobs.example.com}]" }}
{{- end }}
{{- range $name, $route := .Values.route }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail (printf "route.%s.parentRefs: list at least one gateway, for example [{name: gateway, namespace: gateways}]" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sbg-exporter.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . }}
{{- mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) }}
{{- end }}
