-- append(sid, key, body) -> {'ok', length, 1, {}} | {'gone'}
-- An event from outside; whatever follows from it is for the next drive to say.
local sid = ARGV[1]
if not is_open(sid) then return {'gone'} end
put(sid, ARGV[2], ARGV[3], '-', '0', '-')
due_at(sid, 'drive', now)
return {'ok', redis.call('LLEN', journal_key(sid)), 1, {}}
