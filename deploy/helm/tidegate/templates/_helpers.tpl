{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "tidegate.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "name" …, and perhaps "namespaced", "labels", "annotations") */}}
{{- define "tidegate.metadata" -}}
name: {{ .name }}
{{- if .namespaced }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "tidegate.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidegate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tidegate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.hasGatewayClass" -}}
{{- $wanted := toString .Values.gatewayClass.enabled -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1")) -}}true{{- end -}}
{{- end -}}

{{- define "tidegate.injectName" -}}
{{- printf "%s-inject" (include "tidegate.fullname" . | trunc 50 | trimSuffix "-") -}}
{{- end -}}

{{/* Not those of the proxy, whose Service would find these pods else. */}}
{{- define "tidegate.injectSelector" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . | trunc 50 | trimSuffix "-" }}-inject
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegate.initImage" -}}
{{- $image := .Values.inject.initImage -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (default .Chart.AppVersion .Values.image.tag) $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The type of Gateways' Services as the program has it. */}}
{{- define "tidegate.gatewayServices" -}}
{{- get (dict "LoadBalancer" "load-balancer" "ClusterIP" "cluster-ip" "NodePort" "node-port") .Values.gatewayServices.type -}}
{{- end -}}

{{- define "tidegate.publishService" -}}
{{- if .Values.publishService.enabled -}}
{{- if .Values.publishService.path -}}
{{- .Values.publishService.path -}}
{{- else if .Values.service.enabled -}}
{{- printf "%s/%s" .Release.Namespace (include "tidegate.fullname" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
