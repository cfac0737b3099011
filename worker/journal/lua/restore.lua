-- restore(sid, deadline_ms, after_ms, ends, replaces, n_labels, labels: name value ...,
--         records: key at_ms attempt owner body ...) -> {'ok', length, must_drive, {}} | {'gone'}
-- Puts a lost session back, once. Its new life begins now, later than `after_ms`, and its fences begin
-- there too: whoever still holds a lease of an earlier life is fenced. With `replaces`, an older copy
-- of it that stands here makes room, unless it was pruned.
local sid, ends, n_labels = ARGV[1], ARGV[4] == '1', tonumber(ARGV[6])
local stands = redis.call('HMGET', session_key(sid), 'status', 'pruned_ms', 'fence')
if stands[1] and (ARGV[5] ~= '1' or stands[2]) then return {'gone'} end
if stands[1] then
  for _, step in ipairs(redis.call('SMEMBERS', open_key(sid))) do forget(sid, step) end
  forget(sid, 'deadline')
  not_due(sid, 'drive')
  redis.call('DEL', journal_key(sid), index_key(sid), open_key(sid), attempts_key(sid))
  redis.call('HDEL', session_key(sid), 'ended_ms', 'tells')
end
redis.call('HSET', session_key(sid), 'status', ends and 'ended' or 'open')
local first = 7 + 2 * n_labels
for at = 7, first - 1, 2 do
  redis.call('HSET', session_key(sid), 'label:' .. ARGV[at], ARGV[at + 1])
end
local length = 0
for at = first, #ARGV, 5 do
  local key, head = ARGV[at], table.concat({ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at]}, ' ')
  redis.call('RPUSH', journal_key(sid), head .. '\n' .. ARGV[at + 4])
  redis.call('HSET', index_key(sid), key, length .. ' -')
  length = length + 1
end
local began = math.max(now, tonumber(ARGV[3]) + 1, tonumber(stands[3] or 0) + 1)
redis.call('HSET', session_key(sid), 'created_ms', ARGV[first + 1], 'fence', int(began),
  'life', string.format('%013.0f-%08d', began, length))
redis.call('ZADD', P .. 'sessions', ARGV[first + 1], sid)
if ends then
  redis.call('HSET', session_key(sid), 'ended_ms', ARGV[#ARGV - 3])
  return {'ok', length, 0, {}}
end
if not done(sid, 'deadline') then
  local at = int(now + tonumber(ARGV[2]))
  redis.call('HSET', row_key(sid, 'deadline'), 'queue', 'control', 'state', 'ready', 'not_before', at,
    'attempt', '0', 'deaths', '0', 'retries', '0', 'tells', '0')
  due_at(sid, 'deadline', at)
end
due_at(sid, 'drive', now)
return {'ok', length, 1, {}}
