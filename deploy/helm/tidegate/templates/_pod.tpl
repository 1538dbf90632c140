{{- define "tidegate.pod" -}}
metadata:
  labels:
    {{- include "tidegate.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tidegate.serviceAccount" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: {{ default "ClusterFirstWithHostNet" .Values.dnsPolicy }}
  {{- else if .Values.dnsPolicy }}
  dnsPolicy: {{ .Values.dnsPolicy }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
    {{- if and .Values.unprivilegedPorts (not .Values.hostNetwork) (not .Values.podSecurityContext.sysctls) }}
    sysctls:
      - name: net.ipv4.ip_unprivileged_port_start
        value: "0"
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.podAntiAffinity }}
  affinity:
    podAntiAffinity:
      {{- if eq .Values.podAntiAffinity "required" }}
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "tidegate.selector" . | nindent 14 }}
      {{- else }}
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "tidegate.selector" . | nindent 16 }}
      {{- end }}
  {{- else if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tidegate.selector" . | nindent 10 }}
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tidegate.selector" . | nindent 10 }}
  {{- end }}
  {{- with .Values.extraInitContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: tidegate
      image: {{ include "tidegate.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - run
        - --kubernetes
        - --config=/etc/tidegate/tidegate.yaml
        - --admin=0.0.0.0:{{ .Values.ports.admin }}
        - --ingress-address=0.0.0.0:{{ .Values.ports.http }}
        - --ingress-tls-address=0.0.0.0:{{ .Values.ports.https }}
        {{- if not .Values.updateStatus }}
        - --update-status=false
        {{- end }}
        {{- if .Values.mesh }}
        - --mesh
        {{- end }}
        {{- if .Values.externalNames }}
        - --external-names
        {{- end }}
        {{- if .Values.statusAddress }}
        - --status-address={{ .Values.statusAddress }}
        {{- else if include "tidegate.publishService" . }}
        - --publish-service={{ include "tidegate.publishService" . }}
        {{- end }}
        {{- if .Values.gatewayServices.enabled }}
        - --gateway-services={{ include "tidegate.gatewayServices" . }}
        - --gateway-ports={{ .Values.gatewayServices.ports.first }}-{{ .Values.gatewayServices.ports.last }}
        {{- end }}
        {{- with .Values.workers }}
        - --workers={{ . }}
        {{- end }}
        {{- if .Values.snapshot.enabled }}
        - --snapshot=/var/lib/tidegate
        {{- end }}
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: TIDEGATE_LOG
          value: {{ .Values.logLevel | quote }}
        {{- with .Values.extraEnvs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- $hostPorts := and .Values.hostPorts (not .Values.hostNetwork) }}
        - name: http
          containerPort: {{ .Values.ports.http }}
          {{- if $hostPorts }}
          hostPort: {{ .Values.ports.http }}
          {{- end }}
        - name: https
          containerPort: {{ .Values.ports.https }}
          {{- if $hostPorts }}
          hostPort: {{ .Values.ports.https }}
          {{- end }}
        - name: admin
          containerPort: {{ .Values.ports.admin }}
      startupProbe:
        httpGet:
          path: /readyz
          port: admin
        {{- toYaml .Values.startupProbe | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      {{- with .Values.preStop }}
      lifecycle:
        preStop:
          {{- toYaml . | nindent 10 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/tidegate
          readOnly: true
        {{- if .Values.snapshot.enabled }}
        - name: snapshot
          mountPath: /var/lib/tidegate
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "tidegate.fullname" . }}
    {{- if .Values.snapshot.enabled }}
    - name: snapshot
      {{- if .Values.snapshot.volume }}
      {{- toYaml .Values.snapshot.volume | nindent 6 }}
      {{- else }}
      emptyDir:
        medium: Memory
      {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
